use proptest::{collection::vec, prelude::*, sample::select};

use http::{HeaderMap, HeaderValue};

use super::*;
use crate::upstream::{ClientTls, Settings};

fn table(settings: &[RouteSettings]) -> Routes {
    let upstream =
        Settings::new("u", vec!["http://127.0.0.1:1".parse().unwrap()], ClientTls::trusting_nobody());
    let upstreams = HashMap::from([("u".to_owned(), Upstream::new(Arc::new(upstream)))]);
    Routes::new(settings, &upstreams, &HashMap::new(), &Metrics::new())
}

fn routes(patterns: &[ServicePattern]) -> Routes {
    let settings: Vec<_> = patterns.iter().map(|pattern| RouteSettings::new(pattern.clone(), "u")).collect();
    table(&settings)
}

fn all() -> [ServicePattern; 5] {
    [
        ServicePattern::Any,
        ServicePattern::Package("chat.".into()),
        ServicePattern::Package("chat.v1.".into()),
        ServicePattern::Service("chat.v1.Chat".into()),
        ServicePattern::Method("chat.v1.Chat".into(), "Talk".into()),
    ]
}

fn find<'a>(
    routes: &'a Routes,
    host: Option<&str>,
    path: &str,
    metadata: &[(&'static str, &'static str)],
) -> Option<&'a str> {
    let metadata = headers(metadata);
    routes.find(&Asked { host, path, metadata: &metadata }).map(|route| route.name.as_str())
}

fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in entries {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn name<'a>(routes: &'a Routes, path: &str) -> Option<&'a str> {
    find(routes, None, path, &[])
}

fn condition((name, value): (&'static str, &str)) -> MetadataCondition {
    MetadataCondition { name: HeaderName::from_static(name), value: ValuePattern::parse(value) }
}

fn takes(hosts: &[&str], pattern: ServicePattern, metadata: &[(&'static str, &str)]) -> RouteSettings {
    RouteSettings {
        hosts: hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
        metadata: metadata.iter().copied().map(condition).collect(),
        ..RouteSettings::new(pattern, "u")
    }
}

#[test]
fn the_most_specific_pattern_wins_in_whatever_order_they_stand() {
    let mut patterns = all();
    for _ in 0..patterns.len() {
        patterns.rotate_left(1);
        let routes = routes(&patterns);
        assert_eq!(name(&routes, "/chat.v1.Chat/Talk"), Some("chat.v1.Chat/Talk"));
        assert_eq!(name(&routes, "/chat.v1.Chat/Listen"), Some("chat.v1.Chat"));
        assert_eq!(name(&routes, "/chat.v1.Room/Talk"), Some("chat.v1.*"));
        assert_eq!(name(&routes, "/chat.v2.Chat/Talk"), Some("chat.*"));
        assert_eq!(name(&routes, "/chats.Chat/Talk"), Some("*"));
    }
}

#[test]
fn without_a_route_for_everything_something_stays_unserved() {
    let routes = routes(&all()[1..]);
    assert_eq!(name(&routes, "/other.Service/Method"), None);
    assert_eq!(name(&routes, "/chat/Talk"), None, "a package is no service");
}

#[test]
fn only_paths_of_the_form_of_a_method_are_served() {
    let routes = routes(&all());
    for path in [
        "",
        "/",
        "//",
        "/a",
        "/a/",
        "//b",
        "a/b",
        "/a/b/",
        "/a/b/c",
        "/a/b?c=d",
        "/a/%62",
        "/a/b#c",
        "/a b/c",
        "/ü/c",
        "/a/b\r\nx: y",
        "*",
    ] {
        assert_eq!(name(&routes, path), None, "{path:?}");
    }
    assert_eq!(name(&routes, "/a/b"), Some("*"));
}

#[test]
fn each_dialect_of_a_route_is_counted_by_itself() {
    let routes = routes(&all());
    let metadata = HeaderMap::new();
    let route = routes.find(&Asked { host: None, path: "/a/b", metadata: &metadata }).unwrap();
    assert!(Arc::ptr_eq(route.metrics(Dialect::Grpc), route.metrics(Dialect::Grpc)));
    assert!(!Arc::ptr_eq(route.metrics(Dialect::Grpc), route.metrics(Dialect::Session)));
}

#[test]
fn the_host_goes_before_the_method_and_the_method_before_metadata() {
    let method = || ServicePattern::Method("a.B".into(), "C".into());
    let routes = table(&[
        takes(&[], method(), &[("x", "1")]),
        takes(&["*.example.com"], ServicePattern::Service("a.B".into()), &[]),
        takes(&["*.eu.example.com"], ServicePattern::Any, &[]),
        takes(&["app.eu.example.com"], ServicePattern::Any, &[("x", "*")]),
    ]);
    let ask = |host, metadata: &[_]| find(&routes, Some(host), "/a.B/C", metadata);
    let one = &[("x", "1")];
    assert_eq!(ask("app.eu.example.com", one), Some("app.eu.example.com * [x]"));
    assert_eq!(ask("app.eu.example.com", &[]), Some("*.eu.example.com *"), "the next less specific host");
    assert_eq!(ask("b.eu.example.com", one), Some("*.eu.example.com *"));
    assert_eq!(ask("b.example.com", one), Some("*.example.com a.B"));
    assert_eq!(ask("example.com", one), Some("a.B/C [x=1]"), "a name is not below itself");
    assert_eq!(ask("example.com", &[]), None);
    assert_eq!(find(&routes, None, "/a.B/C", one), Some("a.B/C [x=1]"), "no host is none of those named");
}

#[test]
fn more_conditions_win_then_exact_values_then_prefixes() {
    let routes = table(&[
        takes(&[], ServicePattern::Any, &[]),
        takes(&[], ServicePattern::Any, &[("v", "*")]),
        takes(&[], ServicePattern::Any, &[("v", "2.*")]),
        takes(&[], ServicePattern::Any, &[("v", "2.1*")]),
        takes(&[], ServicePattern::Any, &[("v", "2.1.7")]),
        takes(&[], ServicePattern::Any, &[("v", "*"), ("w", "*")]),
    ]);
    let ask = |metadata: &[_]| find(&routes, None, "/a/b", metadata);
    assert_eq!(ask(&[]), Some("*"));
    assert_eq!(ask(&[("v", "1")]), Some("* [v]"));
    assert_eq!(ask(&[("v", "2.0")]), Some("* [v=2.*]"));
    assert_eq!(ask(&[("v", "2.1.8")]), Some("* [v=2.1*]"));
    assert_eq!(ask(&[("v", "2.1.7")]), Some("* [v=2.1.7]"));
    assert_eq!(ask(&[("v", "2.1.7"), ("w", "")]), Some("* [v,w]"));
    assert_eq!(
        ask(&[("v", "2.1.7"), ("v", "2.1.7")]),
        Some("* [v=2.1*]"),
        "several are one, joined by a comma"
    );
}

#[test]
fn hosts_are_read_in_any_case_and_only_as_hosts() {
    let read = |text| HostPattern::parse(text).map(|pattern| pattern.to_string());
    assert_eq!(read("App.Example.COM").as_deref(), Ok("app.example.com"));
    assert_eq!(read("*.Example.com").as_deref(), Ok("*.example.com"));
    assert_eq!(read("[::1]").as_deref(), Ok("[::1]"));
    assert_eq!(read("10.0.0.1").as_deref(), Ok("10.0.0.1"));
    for (text, why) in [
        ("*", "leave `hosts` out"),
        ("a.*.com", "'*' stands only"),
        ("*a.com", "'*' stands only"),
        ("https://a.com", "without scheme"),
        ("a.com/x", "without scheme"),
        ("a.com:443", "the port is not looked at"),
        ("münchen.de", "xn--"),
        ("a..com", "separated by dots"),
        ("a com", "no host name"),
        ("*.[::1]", "an address has nothing below it"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn the_host_of_a_request_is_its_authority_or_else_its_only_host_header() {
    let host = |uri: &str, hosts: &[&str]| {
        let request =
            hosts.iter().fold(http::Request::get(uri), |request, host| request.header("host", *host));
        let head = request.body(()).unwrap().into_parts().0;
        host_of(&head).map(std::borrow::Cow::into_owned)
    };
    assert_eq!(host("/a/b", &["App.Example.com:8443"]).as_deref(), Some("app.example.com"));
    assert_eq!(host("https://h2.example:443/a/b", &[]).as_deref(), Some("h2.example"));
    assert_eq!(host("http://line.example/a/b", &["header.example"]).as_deref(), Some("line.example"));
    assert_eq!(host("/a/b", &["a.example."]).as_deref(), Some("a.example"));
    assert_eq!(host("/a/b", &["[::1]:80"]).as_deref(), Some("[::1]"));
    assert_eq!(host("/a/b", &["a.example", "b.example"]), None);
    assert_eq!(host("/a/b", &["a b"]), None);
    assert_eq!(host("/a/b", &[]), None);
}

#[test]
fn routes_that_some_calls_could_go_to_alike_are_conflicts() {
    let any = |hosts: &[&str], metadata: &[_]| takes(hosts, ServicePattern::Any, metadata);
    let conflict = |routes: &[RouteSettings]| {
        conflicts(routes).first().map(|c| (c.routes, c.host.as_ref().map(ToString::to_string)))
    };
    assert_eq!(conflict(&[any(&[], &[]), any(&[], &[])]), Some(((0, 1), None)));
    assert_eq!(
        conflict(&[any(&["a.b", "c.d"], &[]), any(&["c.d"], &[])]),
        Some(((0, 1), Some("c.d".into())))
    );
    assert_eq!(conflict(&[any(&["a.b"], &[]), any(&["c.d"], &[]), any(&[], &[])]), None);
    assert_eq!(conflict(&[any(&["*.b"], &[]), any(&["a.b"], &[]), any(&["*.a.b"], &[])]), None);
    // One of two values, or both names.
    assert_eq!(conflict(&[any(&[], &[("x", "1")]), any(&[], &[("x", "2")])]), None);
    assert_eq!(conflict(&[any(&[], &[("x", "1*")]), any(&[], &[("x", "2*")])]), None);
    let two = [any(&[], &[("x", "1")]), any(&[], &[("y", "1")])];
    assert_eq!(conflict(&two), Some(((0, 1), None)));
    let third = any(&[], &[("x", "1"), ("y", "*")]);
    assert_eq!(conflict(&[&two[..], &[third]].concat()), None, "another takes the calls of both");
    let fourth = any(&[], &[("x", "1"), ("z", "*")]);
    assert_eq!(conflict(&[&two[..], &[fourth]].concat()), Some(((0, 1), None)), "not all of them");
}

#[test]
fn the_main_upstream_is_the_heaviest_and_of_equals_the_first() {
    let main = |upstreams: &[(&str, u32)]| {
        let upstreams = upstreams.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        RouteSettings { upstreams, ..RouteSettings::new(ServicePattern::Any, "u") }.main_upstream().to_owned()
    };
    assert_eq!(main(&[("a", 5), ("b", 95)]), "b");
    assert_eq!(main(&[("a", 1), ("b", 1), ("c", 0)]), "a");
}

const HOSTS: [&str; 6] = ["a.b", "*.b", "c.a.b", "*.a.b", "*.c.a.b", "d"];

fn any_pattern() -> impl Strategy<Value = ServicePattern> {
    let service = || select(&["a.S", "a.b.S", "S"][..]);
    prop_oneof![
        Just(ServicePattern::Any),
        select(&["a.", "a.b.", "b."][..]).prop_map(|package| ServicePattern::Package(package.into())),
        service().prop_map(|service| ServicePattern::Service(service.into())),
        (service(), select(&["M", "N"][..]))
            .prop_map(|(service, method)| ServicePattern::Method(service.into(), method.into())),
    ]
}

fn any_route() -> impl Strategy<Value = RouteSettings> {
    let hosts = proptest::sample::subsequence(&HOSTS[..], 0..3);
    let values = || select(&["*", "1", "2", "1*", "11", "11*"][..]);
    let metadata = (proptest::sample::subsequence(&["x", "y", "z"][..], 0..3), values(), values());
    (hosts, any_pattern(), metadata).prop_map(|(hosts, pattern, (names, first, second))| {
        takes(&hosts, pattern, &names.into_iter().zip([first, second]).collect::<Vec<_>>())
    })
}

/// Routes of which no two are in conflict.
fn any_routes() -> impl Strategy<Value = Vec<RouteSettings>> {
    vec(any_route(), 1..40).prop_map(|mut all| {
        while let Some(conflict) = conflicts(&all).pop() {
            all.remove(conflict.routes.1);
        }
        all
    })
}

type Call = (Option<&'static str>, &'static str, Vec<(&'static str, &'static str)>);

fn any_call() -> impl Strategy<Value = Call> {
    (
        proptest::option::of(select(&["a.b", "b", "c.a.b", "x.c.a.b", "d", "e"][..])),
        select(&["/a.S/M", "/a.S/N", "/a.S/O", "/a.b.S/M", "/S/M", "/b.c.T/M", "/T/M"][..]),
        vec((select(&["x", "y", "z"][..]), select(&["", "1", "11", "12", "2"][..])), 0..4),
    )
}

proptest! {
    #[test]
    fn the_order_of_routes_in_the_file_never_matters(
        (routes, shuffled) in any_routes().prop_flat_map(|routes| (Just(routes.clone()), Just(routes).prop_shuffle())),
        calls in vec(any_call(), 1..30),
    ) {
        let (one, other) = (table(&routes), table(&shuffled));
        for (host, path, metadata) in &calls {
            prop_assert_eq!(find(&one, *host, path, metadata), find(&other, *host, path, metadata));
        }
    }

    /// The table finds what a look at every route would find; and of routes without conflicts one is the greatest.
    #[test]
    fn the_table_finds_the_most_specific_of_all_routes(
        routes in any_routes(), calls in vec(any_call(), 1..30),
    ) {
        let table = table(&routes);
        for (host, path, metadata) in &calls {
            let found = find(&table, *host, path, metadata);
            let metadata = headers(metadata);
            let asked = Asked { host: *host, path, metadata: &metadata };
            let mut all: Vec<_> =
                routes.iter().filter_map(|route| Some((route.takes(&asked)?, route.label()))).collect();
            all.sort();
            prop_assert_eq!(found, all.last().map(|(_, name)| name.as_str()));
            if let [.., second, first] = &all[..] {
                prop_assert!(first.0 > second.0, "{:?}", (first, second));
            }
        }
    }

    /// Of a pair in conflict, a call exists that both take alike; found by search, as conflicts are few.
    #[test]
    fn no_conflict_is_made_up(a in any_route(), b in any_route()) {
        let pair = [a, b];
        if conflicts(&pair).is_empty() {
            return Ok(());
        }
        let host = match &conflicts(&pair)[0].host {
            None => None,
            Some(HostPattern::Exact(host)) => Some(host.clone()),
            Some(HostPattern::Subdomains(suffix)) => Some(format!("q{suffix}")),
        };
        let path = match &pair[0].pattern {
            ServicePattern::Any => "/T/M".to_owned(),
            ServicePattern::Package(package) => format!("/{package}Q/M"),
            ServicePattern::Service(service) => format!("/{service}/M"),
            ServicePattern::Method(service, method) => format!("/{service}/{method}"),
        };
        let values = ["", "1", "11", "2"];
        let mut found = false;
        for x in values {
            for y in values {
                for z in values {
                    let entries = [("x", x), ("y", y), ("z", z)];
                    let given: Vec<_> = entries.into_iter().filter(|(_, value)| !value.is_empty()).collect();
                    let metadata = headers(&given);
                    let asked = Asked { host: host.as_deref(), path: &path, metadata: &metadata };
                    let ranks = (pair[0].takes(&asked), pair[1].takes(&asked));
                    found |= ranks.0.is_some() && ranks.0 == ranks.1;
                }
            }
        }
        prop_assert!(found, "{pair:?}");
    }
}
