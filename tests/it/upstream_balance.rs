//! Which replica a call goes to: shares, keys, names that change, replicas that die, are ill or fail.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use bidiway::{
    demo::{
        Services,
        v1::{HelloRequest, greeter_client::GreeterClient},
    },
    downstream::{self, RouteSettings, ServicePattern},
    telemetry::Metrics,
    upstream::{
        Balance, Channel, DnsSettings, EjectionSettings, HashKey, HealthSettings, Roster, Settings, Upstream,
    },
};
use serde_json::json;
use tonic::{Code, Request, Status};

use crate::support::{
    calls::settings,
    edge::{self, Edge, Http},
    json,
    names::{NAME, Names},
    replicas::{Replica, ip, replicas},
    upstream::{Exchange, Scripted, end, message, send},
    within,
};

/// How often names are resolved and replicas are asked for their health here.
const SOON: Duration = Duration::from_millis(30);

/// An upstream and its metrics.
struct Rig {
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    upstream: Upstream,
}

impl Rig {
    fn new(settings: Settings) -> Self {
        let metrics = Metrics::new();
        let roster = Roster::new(Arc::new(settings), &metrics);
        let upstream = Upstream::of(&roster);
        Self { roster, metrics, upstream }
    }

    /// Every replica is named.
    fn of(replicas: &[Replica], change: impl FnOnce(&mut Settings)) -> Self {
        let urls: Vec<String> = replicas.iter().map(Replica::url).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let mut settings = Settings { ramp: Duration::ZERO, ..settings(&urls) };
        change(&mut settings);
        Self::new(settings)
    }

    /// The replicas are what a name stands for.
    fn named(names: &Names, port: u16, interval: Duration, change: impl FnOnce(&mut Settings)) -> Self {
        let dns = DnsSettings { interval, servers: vec![names.address] };
        let mut settings = Settings { dns, ..settings(&[&format!("dns+http://{NAME}:{port}")]) };
        change(&mut settings);
        Self::new(settings)
    }

    /// One call; returns who answered.
    async fn call(&self) -> Result<String, Status> {
        hello(&self.upstream, "x", None).await
    }

    /// Calls, some at a time, all of which must succeed.
    async fn calls(&self, count: usize) {
        for done in (0..count).step_by(30) {
            let calls = (0..30.min(count - done)).map(|_| self.call());
            for answer in within(20, futures_util::future::join_all(calls)).await {
                answer.unwrap();
            }
        }
    }

    /// Waits until the metrics have this line.
    async fn shows(&self, metric: &str, labels: &str, value: usize) {
        let line = format!("bidiway_{metric}{{upstream=\"chat\"{labels}}} {value}\n");
        within(20, async {
            while !self.metrics.encode().contains(&line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn endpoints(&self, state: &str, count: usize) {
        self.shows("upstream_endpoints", &format!(",state=\"{state}\""), count).await;
    }
}

async fn hello(upstream: &Upstream, name: &str, user: Option<&str>) -> Result<String, Status> {
    let mut client: GreeterClient<Channel> = GreeterClient::new(upstream.channel());
    let mut request = Request::new(HelloRequest { name: name.to_owned() });
    if let Some(user) = user {
        request.metadata_mut().insert("x-user", user.parse().unwrap());
    }
    Ok(client.hello(request).await?.into_inner().text)
}

fn counts(replicas: &[Replica]) -> Vec<usize> {
    replicas.iter().map(Replica::greeted).collect()
}

/// Asserts that the calls since `before` are spread within a fifth of what each should have.
#[track_caller]
fn assert_even(before: &[usize], now: &[usize]) {
    let shares: Vec<usize> = now.iter().zip(before).map(|(now, before)| now - before).collect();
    let fair = shares.iter().sum::<usize>() as f64 / shares.len() as f64;
    for share in &shares {
        assert!((*share as f64 - fair).abs() <= fair / 5.0, "{shares:?}");
    }
}

/// Calls until a round has left these replicas alone.
async fn avoided(rig: &Rig, replica: &Replica) {
    within(20, async {
        loop {
            let before = replica.greeted();
            for _ in 0..30 {
                let _ = rig.call().await;
            }
            if replica.greeted() == before {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_calls_of_several_workers_spread_evenly_over_three_replicas() {
    for balance in [Balance::LeastLoaded, Balance::RoundRobin] {
        let replicas = replicas(3);
        let rig = Rig::of(&replicas, |settings| settings.balance = balance);
        let workers: Vec<Upstream> = (0..4).map(|_| Upstream::of(&rig.roster)).collect();
        // One after the other, where load tells nothing.
        for call in 0..1500 {
            hello(&workers[call % 4], "x", None).await.unwrap();
        }
        assert_even(&[0; 3], &counts(&replicas));
        // And many at a time.
        let before = counts(&replicas);
        for _ in 0..10 {
            let calls = (0..60).map(|call| hello(&workers[call % 4], "x", None));
            for answer in within(20, futures_util::future::join_all(calls)).await {
                answer.unwrap();
            }
        }
        assert_even(&before, &counts(&replicas));
    }
}

#[tokio::test]
async fn a_replica_that_appears_in_dns_gets_its_share_and_one_that_vanishes_may_finish() {
    let replicas = replicas(3);
    let names = Names::start(&[ip(1), ip(2)]).await;
    let rig = Rig::named(&names, replicas[0].address.port(), SOON, |_| {});
    rig.calls(60).await;
    assert!(replicas[0].greeted() > 0 && replicas[1].greeted() > 0 && replicas[2].greeted() == 0);

    names.set(&[ip(1), ip(2), ip(3)]);
    rig.endpoints("resolved", 3).await;
    let before = counts(&replicas);
    rig.calls(600).await;
    assert_even(&before, &counts(&replicas));

    // A call that runs on each of them.
    let upstream = rig.upstream.clone();
    let waiting: Vec<_> = (0..9)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { hello(&upstream, "wait", None).await })
        })
        .collect();
    let begun = |replica: &Replica| replica.greeter.waiting.load(SeqCst);
    within(20, async {
        while replicas.iter().map(begun).sum::<usize>() < 9 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(begun(&replicas[1]) > 0);
    names.set(&[ip(1), ip(3)]);
    rig.endpoints("resolved", 2).await;
    avoided(&rig, &replicas[1]).await;
    let before = replicas[1].greeted();
    rig.calls(60).await;
    assert_eq!(replicas[1].greeted(), before, "no new calls");
    for replica in &replicas {
        replica.greeter.go_on.add_permits(9);
    }
    for call in waiting {
        within(20, call).await.unwrap().unwrap();
    }
    // Its connection closes behind the last call.
    rig.shows("upstream_connections", "", 2).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_any_more_keeps_its_addresses() {
    let replicas = replicas(1);
    let names = Names::start(&[]).await;
    names.fail();
    let rig = Rig::named(&names, replicas[0].address.port(), SOON, |_| {});
    let refused = within(20, rig.call()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("the endpoints of upstream \"chat\" cannot be resolved"),
        "{refused:?}"
    );
    let error = rig.upstream.connect_error().unwrap();
    assert!(error.contains("cannot resolve dns+http://chat.test:"), "{error}");

    names.set(&[ip(1)]);
    rig.endpoints("resolved", 1).await;
    within(20, async { while rig.call().await.is_err() {} }).await;

    names.fail();
    let failures = || {
        let text = rig.metrics.encode();
        let line = text.lines().find(|line| line.starts_with("bidiway_upstream_resolution_failures_total{"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let before = failures();
    within(20, async {
        while failures() < before + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    rig.calls(10).await;
}

#[tokio::test]
async fn workers_share_what_is_resolved() {
    let replicas = replicas(2);
    let names = Names::start(&[ip(1), ip(2)]).await;
    let rig = Rig::named(&names, replicas[0].address.port(), Duration::from_secs(3600), |_| {});
    let workers: Vec<Upstream> = (0..4).map(|_| Upstream::of(&rig.roster)).collect();
    // All of them wait for the same answer.
    let calls = workers.iter().map(|worker| hello(worker, "x", None));
    for answer in within(20, futures_util::future::join_all(calls)).await {
        answer.unwrap();
    }
    assert_eq!(names.asked(), 2, "once for A, once for AAAA");
}

#[tokio::test]
async fn a_dead_replica_gets_no_calls_and_is_found_when_it_is_back() {
    let mut replicas = replicas(3);
    let rig = Rig::of(&replicas, |_| {});
    rig.calls(30).await;
    let address = replicas.pop().unwrap().address;
    // Calls that were on their way may be lost with it, and then no more.
    let mut well = 0;
    within(20, async {
        while well < 100 {
            well = if rig.call().await.is_ok() { well + 1 } else { 0 };
        }
    })
    .await;
    let back = within(20, Replica::again(address)).await;
    within(20, async {
        while back.greeted() == 0 {
            rig.calls(1).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_unhealthy_replica_gets_no_calls_until_it_is_healthy_again() {
    let replicas = replicas(3);
    let health = HealthSettings { interval: SOON, ..HealthSettings::default() };
    let rig = Rig::of(&replicas, |settings| settings.health = Some(health));
    rig.calls(1).await;
    rig.endpoints("healthy", 3).await;
    replicas[1].serving(false).await;
    rig.endpoints("unhealthy", 1).await;
    avoided(&rig, &replicas[1]).await;
    let before = counts(&replicas);
    rig.calls(300).await;
    let now = counts(&replicas);
    assert_eq!(now[1], before[1]);
    assert_even(&[before[0], before[2]], &[now[0], now[2]]);
    replicas[1].serving(true).await;
    rig.endpoints("unhealthy", 0).await;
    within(20, async {
        while replicas[1].greeted() == before[1] {
            rig.calls(1).await;
        }
    })
    .await;
}

#[tokio::test]
async fn when_all_replicas_are_unhealthy_all_are_used() {
    let replicas = replicas(3);
    for replica in &replicas {
        replica.serving(false).await;
    }
    let health = HealthSettings { interval: SOON, ..HealthSettings::default() };
    let rig = Rig::of(&replicas, |settings| settings.health = Some(health));
    rig.calls(1).await;
    rig.endpoints("unhealthy", 3).await;
    rig.shows("upstream_panic", "", 1).await;
    let before = counts(&replicas);
    rig.calls(600).await;
    assert_even(&before, &counts(&replicas));
    replicas[2].serving(true).await;
    rig.shows("upstream_panic", "", 0).await;
    avoided(&rig, &replicas[0]).await;
    avoided(&rig, &replicas[1]).await;
}

#[tokio::test]
async fn a_replica_that_answers_unavailable_is_ejected_for_a_while() {
    let replicas = replicas(3);
    let ejection = EjectionSettings { failures: 3, time: Duration::from_millis(300), max_percent: 50 };
    let rig = Rig::of(&replicas, |settings| settings.ejection = Some(ejection));
    replicas[0].refuse(true);
    let mut refused = 0;
    within(20, async {
        while refused < 3 {
            refused += usize::from(rig.call().await.is_err());
        }
    })
    .await;
    rig.shows("upstream_ejections_total", "", 1).await;
    avoided(&rig, &replicas[0]).await;
    let before = replicas[0].greeted();
    replicas[0].refuse(false);
    within(20, async {
        while replicas[0].greeted() == before {
            rig.calls(1).await;
        }
    })
    .await;
    rig.endpoints("ejected", 0).await;
}

#[tokio::test]
async fn not_more_replicas_are_ejected_than_may_be() {
    let replicas = replicas(3);
    let ejection = EjectionSettings { failures: 2, time: Duration::from_secs(60), max_percent: 50 };
    let rig = Rig::of(&replicas, |settings| settings.ejection = Some(ejection));
    for replica in &replicas {
        replica.refuse(true);
    }
    for _ in 0..60 {
        rig.call().await.unwrap_err();
    }
    rig.endpoints("ejected", 1).await;
    rig.shows("upstream_ejections_total", "", 1).await;
}

#[tokio::test]
async fn a_key_stays_with_its_replica_and_only_the_keys_of_one_that_goes_move() {
    let replicas = replicas(4);
    let all: Vec<Ipv4Addr> = (1..=4).map(ip).collect();
    let names = Names::start(&all).await;
    let rig = Rig::named(&names, replicas[0].address.port(), SOON, |settings| {
        settings.balance = Balance::Hash(HashKey::Header("x-user".parse().unwrap()));
    });
    // Another instance of the proxy.
    let other = Rig::named(&names, replicas[0].address.port(), SOON, |settings| {
        settings.balance = Balance::Hash(HashKey::Header("x-user".parse().unwrap()));
    });
    let users: Vec<String> = (0..200).map(|n| format!("user-{n}")).collect();
    let mut homes = HashMap::new();
    for user in &users {
        let home = hello(&rig.upstream, "x", Some(user)).await.unwrap();
        assert_eq!(hello(&other.upstream, "x", Some(user)).await.unwrap(), home, "all instances agree");
        homes.insert(user, home);
    }
    let gone = replicas[3].address.to_string();
    let of = |home: &str| homes.values().filter(|other| *other == home).count();
    for replica in &replicas {
        let keys = of(&replica.address.to_string());
        assert!((20..=90).contains(&keys), "{keys} of 200 keys");
    }
    names.set(&all[..3]);
    rig.endpoints("resolved", 3).await;
    avoided(&rig, &replicas[3]).await;
    for user in &users {
        let now = hello(&rig.upstream, "x", Some(user)).await.unwrap();
        assert!(now == homes[user] || homes[user] == gone, "{user} moved from {} to {now}", homes[user]);
    }
    // Without a key the load decides.
    let before = counts(&replicas);
    rig.calls(600).await;
    let now = counts(&replicas);
    assert_even(&before[..3], &now[..3]);
}

#[tokio::test]
async fn a_whole_proxy_resolves_checks_and_reflects() {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let names = Names::start(&[ip(1)]).await;
    let port = services.address().port();
    let upstream = Settings {
        dns: DnsSettings { interval: SOON, servers: vec![names.address] },
        health: Some(HealthSettings { service: "demo.v1.Greeter".to_owned(), ..HealthSettings::default() }),
        ..settings(&[&format!("dns+http://{NAME}:{port}")])
    };
    let edge = edge::edge_over(upstream, edge::settings()).await;
    for _ in 0..10 {
        let request = json::request(&edge, "/demo.v1.Greeter/Hello", r#"{"name":"x"}"#);
        let answer = within(20, json::call(&edge, Http::One, request)).await;
        assert_eq!((answer.http, answer.json()), (200, json!({"text": "Hello, x!"})), "{answer:?}");
    }
    let text = edge.metrics.encode();
    assert!(text.contains("bidiway_upstream_endpoints{upstream=\"chat\",state=\"healthy\"} 1"), "{text}");
}

/// Calls over each of these connections, at the same time.
async fn calls_over(clients: &mut [edge::Client], edge: &Edge, each: usize) {
    let calls = clients.iter_mut().map(async |client| {
        for _ in 0..each {
            let request = json::request(edge, "/demo.v1.Greeter/Hello", r#"{"name":"x"}"#);
            let answer = json::Answer::read(client.send(request).await.unwrap()).await;
            assert_eq!(answer.http, 200, "{answer:?}");
        }
    });
    within(60, futures_util::future::join_all(calls)).await;
}

#[tokio::test]
async fn through_a_proxy_of_several_workers_calls_spread_evenly_over_the_replicas_that_there_are() {
    let mut replicas = replicas(3);
    let names = Names::start(&[ip(1), ip(2)]).await;
    let upstream = Settings {
        dns: DnsSettings { interval: SOON, servers: vec![names.address] },
        health: Some(HealthSettings { interval: SOON, ..HealthSettings::default() }),
        ..settings(&[&format!("dns+http://{NAME}:{}", replicas[0].address.port())])
    };
    let edge = edge::start(3, json::schema(), vec![upstream], edge::settings()).await;
    let shows = async |line: &str| {
        let line = format!("{line}\n");
        within(20, async {
            while !edge.metrics.encode().contains(&line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    let endpoints =
        |state, count| format!("bidiway_upstream_endpoints{{upstream=\"chat\",state=\"{state}\"}} {count}");
    // The kernel gives each worker some of them.
    let mut clients = Vec::new();
    for _ in 0..24 {
        clients.push(edge.connect(Http::Two).await);
    }
    let since = |replicas: &[Replica], before: &[usize]| -> Vec<usize> {
        counts(replicas).iter().zip(before).map(|(now, before)| now - before).collect()
    };

    calls_over(&mut clients, &edge, 50).await;
    assert_even(&[0; 2], &counts(&replicas)[..2]);
    assert_eq!(replicas[2].greeted(), 0);
    let text = edge.metrics.encode();
    let line = text.lines().find(|line| line.starts_with("bidiway_upstream_connections{")).unwrap();
    let connections: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(connections > 2, "more than one worker has called: {connections}");

    // Known after the next resolution: one may be under way, and each asks for A and AAAA.
    let asked = names.asked();
    names.set(&[ip(1), ip(2), ip(3)]);
    within(20, async {
        while names.asked() < asked + 6 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(edge.metrics.encode().contains(&endpoints("resolved", 3)));
    shows(&endpoints("healthy", 3)).await;
    let before = counts(&replicas);
    calls_over(&mut clients, &edge, 75).await;
    assert_even(&before, &counts(&replicas));

    replicas[1].serving(false).await;
    shows(&endpoints("unhealthy", 1)).await;
    // Each worker hears of it by itself.
    within(20, async {
        loop {
            let before = replicas[1].greeted();
            calls_over(&mut clients, &edge, 2).await;
            if replicas[1].greeted() == before {
                return;
            }
        }
    })
    .await;
    let before = counts(&replicas);
    calls_over(&mut clients, &edge, 50).await;
    let shares = since(&replicas, &before);
    assert_eq!(shares[1], 0, "an unhealthy one gets none");
    assert_even(&[0; 2], &[shares[0], shares[2]]);

    replicas[1].serving(true).await;
    shows(&endpoints("healthy", 3)).await;
    drop(replicas.pop());
    // It is found dead by a health check or a connection, and until then calls may be lost with it.
    shows(&endpoints("unhealthy", 1)).await;
    let before = counts(&replicas);
    calls_over(&mut clients, &edge, 50).await;
    let shares = since(&replicas, &before);
    assert_eq!(shares.iter().sum::<usize>(), 24 * 50, "none is lost");
}

/// Says who it is.
async fn named_service(name: String) -> Scripted {
    Scripted::start(move |mut exchange: Exchange| {
        let name = name.clone();
        async move {
            let mut stream = exchange.headers();
            send(&mut stream, message(name.as_bytes())).await;
            end(&mut stream, 0);
        }
    })
    .await
}

#[tokio::test]
async fn a_users_calls_stay_with_one_replica_of_each_upstream_among_which_they_are_drawn() {
    let mut upstreams = Vec::new();
    let mut services = Vec::new();
    let keys = [HashKey::Header("x-user".parse().unwrap()), HashKey::Cookie("sid".to_owned())];
    for (name, key) in ["stable", "canary"].into_iter().zip(keys) {
        let mut urls = Vec::new();
        for replica in 0..3 {
            let service = named_service(format!("{name} {replica}")).await;
            urls.push(service.url.clone());
            services.push(service);
        }
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        upstreams.push(Settings { name: name.to_owned(), balance: Balance::Hash(key), ..settings(&urls) });
    }
    let route = RouteSettings {
        upstreams: vec![("stable".into(), 3), ("canary".into(), 1)],
        ..RouteSettings::new(ServicePattern::Any, "stable")
    };
    let downstream = downstream::Settings {
        routes: vec![route],
        upgrade_headers: vec![http::header::COOKIE],
        ..downstream::Settings::default()
    };
    let edge = edge::edge_among(upstreams, downstream).await;
    let mut client = edge.connect(Http::Two).await;
    let mut homes: HashMap<String, HashSet<String>> = HashMap::new();
    within(60, async {
        for user in 0..12 {
            let mut seen = HashMap::new();
            for _ in 0..40 {
                let request = edge.web("/chat.v1.Chat/Talk");
                let request = request
                    .header("x-user", format!("user-{user}"))
                    .header("cookie", format!("a=b; sid=s{user}"));
                let response = client.send(request.body(edge::whole(message(b"x"))).unwrap()).await.unwrap();
                let answer = edge::WebAnswer::read(response).await.unwrap();
                let text = String::from_utf8(answer.payloads()[0].to_vec()).unwrap();
                let (upstream, replica) = text.split_once(' ').unwrap();
                let home = seen.entry(upstream.to_owned()).or_insert_with(|| replica.to_owned());
                assert_eq!(home, replica, "user {user} moved within {upstream}");
            }
            for (upstream, replica) in seen {
                homes.entry(upstream).or_default().insert(replica);
            }
        }
    })
    .await;
    for upstream in ["stable", "canary"] {
        assert!(homes[upstream].len() > 1, "{homes:?}");
    }
}
