//! The configuration as people meet it: examples, errors, documentation, schema.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bidiway::{
    config::{self, Config},
    downstream::{CallLimits, OwnServices},
    schema::{FieldNames, JsonOptions},
    server::{Collector, DrainSettings},
    telemetry::TraceSettings,
    upstream::{Balance, HashKey, Retries},
};
use serde_json::Value;

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "node_modules" {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|end| end == "yaml") && !path.ends_with("buf.gen.yaml") {
            found.push(path);
        }
    }
}

#[test]
fn every_example_is_valid() {
    let mut files = Vec::new();
    yaml_files(Path::new("examples"), &mut files);
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        if let Err(error) = Config::load(&file) {
            panic!("{error}");
        }
    }
}

#[test]
fn every_invalid_file_gets_exactly_the_errors_written_beside_it() {
    let mut files = Vec::new();
    yaml_files(Path::new("tests/config/invalid"), &mut files);
    assert!(files.len() >= 17, "{files:?}");
    for file in files {
        let expected = fs::read_to_string(file.with_extension("txt")).unwrap();
        let error = Config::load(&file).expect_err(&file.display().to_string());
        assert_eq!(error.to_string().trim(), expected.trim(), "{}", file.display());
    }
}

/// Grace, spread and timeout in milliseconds, or the errors.
fn drain(more: &str) -> Result<[u128; 3], String> {
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nupstreams: {{ a: {{ endpoints: [\"http://a:1\"] }} }}\n{more}"
    );
    let config = Config::parse(&text, "x.yaml", Path::new("")).map_err(|error| error.to_string())?;
    let DrainSettings { grace, spread, timeout } = config.settings.drain;
    Ok([grace, spread, timeout].map(|time| time.as_millis()))
}

#[test]
fn the_times_of_a_drain_fit_into_each_other() {
    let admin = "admin: { address: 127.0.0.1:0 }\n";
    assert_eq!(drain(admin), Ok([5000, 5000, 25_000]));
    assert_eq!(drain(&format!("{admin}drain: 4s")), Ok([1000, 1000, 4000]));
    assert_eq!(drain(&format!("{admin}drain: 0s")), Ok([0, 0, 0]));
    assert_eq!(drain("drain: { grace: 8s, timeout: 2m }"), Ok([8000, 5000, 120_000]));
    let error = drain("drain: { grace: 8s, spread: 3s, timeout: 10s }").unwrap_err();
    assert!(
        error.starts_with("x.yaml:3:8: grace (8s) and spread (3s) do not fit into the timeout (10s)"),
        "{error}"
    );
}

#[test]
fn the_smallest_file_has_the_documented_defaults() {
    let settings = Config::load(Path::new("examples/minimal.yaml")).unwrap().settings;
    let [grace, spread, timeout] = [0, 5, 25].map(Duration::from_secs);
    assert_eq!(settings.drain, DrainSettings { grace, spread, timeout }, "nobody watches: no grace");
    assert_eq!(settings.max_connections, 50_000);
    assert_eq!(settings.admin, None);
    assert_eq!(settings.upstreams[0].name, "main");
    assert_eq!(settings.downstream.routes.len(), 1);
    assert_eq!(settings.downstream.routes[0].max_message, 4 << 20);
}

#[test]
fn every_value_of_a_file_reaches_the_settings() {
    let Config { settings, log, reload, .. } = Config::load(Path::new("examples/full.yaml")).unwrap();
    assert_eq!(settings.listeners[1].address.to_string(), "[::]:8443");
    assert_eq!(settings.admin.unwrap().port(), 9901);
    assert_eq!(settings.workers, 4);
    assert_eq!(reload, Some(Duration::from_secs(1)));
    assert_eq!(settings.downstream.upgrade_headers, ["cookie", "x-request-id"]);
    let routes = &settings.downstream.routes;
    assert_eq!(routes[0].timeout.unwrap().as_secs(), 3600);
    assert_eq!(routes[0].max_stream_age, Some(Duration::from_secs(1800)));
    assert_eq!((routes[3].timeout, routes[3].max_stream_age), (None, None));
    assert_eq!((routes[2].max_message, routes[3].max_message), (4 << 20, 64 << 20));
    let json = JsonOptions { ignore_unknown: true, defaults: true, field_names: FieldNames::Original };
    assert_eq!((routes[0].json, routes[1].json), (JsonOptions::default(), json));
    assert_eq!(settings.schemas.keys().collect::<Vec<_>>(), ["chat"]);
    let [chat, files] = &settings.upstreams[..] else { panic!() };
    assert_eq!(chat.keepalive.unwrap().as_secs(), 310);
    assert_eq!(files.keepalive, None);
    assert_eq!((chat.retries, files.retries), (Some(Retries::default()), None));
    assert_eq!((chat.max_calls, chat.max_pending), (Some(10_000), Some(1000)));
    assert_eq!(chat.max_stream_age.unwrap().as_secs(), 12 * 3600);
    assert_eq!(chat.dns.servers, ["10.0.0.2:53".parse().unwrap()]);
    assert_eq!(chat.health.as_ref().unwrap().service, "chat.v1.Chat");
    assert_eq!((chat.ejection.as_ref().unwrap().failures, files.ejection.is_some()), (5, false));
    assert_eq!(files.balance, Balance::Hash(HashKey::Cookie("sid".to_owned())));
    assert_eq!(log.format, bidiway::telemetry::log::Format::Json);
    let given = &settings.downstream;
    assert!(given.trusted_proxies.contains("fd00::7".parse().unwrap()));
    assert!(!settings.listeners[1].proxy_protocol);
    let per_principal = CallLimits {
        calls_per_second: Some(50),
        concurrent_calls: Some(100),
        messages_per_second: Some(500),
        bytes_per_second: Some(1 << 20),
    };
    assert_eq!(given.limits.per_principal, per_principal);
    assert_eq!((given.limits.upgrades_per_minute, given.limits.cancels_per_second), (Some(600), Some(100)));
    assert_eq!(given.limits.overload.max_memory, Some(2 << 30));
    assert!(routes[1].limits.is_some() && routes[0].limits.is_none());
    assert_eq!(settings.downstream.own_services, OwnServices { health: true, reflection: false });
    let tracing = settings.tracing.unwrap();
    assert_eq!(tracing.traces, TraceSettings { sample: 0.1, trust_parent: true });
    assert_eq!((&*tracing.service_name, tracing.headers["x-api-key"].is_sensitive()), ("bidiway", true));
    let Collector::Grpc(collector) = tracing.collector else { panic!("{:?}", tracing.collector) };
    assert_eq!(collector.endpoints[0].to_string(), "http://127.0.0.1:4317");
}

#[test]
fn a_link_to_other_instances_needs_its_certificate_and_takes_it_for_both_sides() {
    let folder = own_folder();
    let pair = rcgen::generate_simple_self_signed(vec!["peers".to_owned()]).unwrap();
    fs::write(folder.join("ca.pem"), pair.cert.pem()).unwrap();
    fs::write(folder.join("peers.pem"), pair.cert.pem()).unwrap();
    fs::write(folder.join("peers.key"), pair.signing_key.serialize_pem()).unwrap();
    let text = "listeners: [{ address: 127.0.0.1:8080 }]
upstreams: { a: { endpoints: [\"http://a\"] } }
session:
  peers:
    listen: 0.0.0.0:7443
    addresses: [peers.default.svc:7443, \"[::1]:7444\"]
    tls: { ca: ca.pem, certificate: peers.pem, key: peers.key, server_name: peers }
";
    let settings = Config::parse(text, "a.yaml", &folder).unwrap().settings;
    let peers = settings.downstream.peers.clone().unwrap();
    assert_eq!(peers.listen.port(), 7443);
    let addresses: Vec<_> = peers.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["peers.default.svc:7443", "[::1]:7444"]);
    assert_eq!(peers.client.server_name.as_deref(), Some("peers"));
    assert!(peers.client.config.client_auth_cert_resolver.has_certs());
    let without = text.replace("    tls:", "    # tls:");
    let error = Config::parse(&without, "a.yaml", &folder).unwrap_err().to_string();
    assert!(error.contains("`tls` is missing"), "{error}");
    fs::remove_dir_all(folder).unwrap();
}

fn own_folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bidiway-config-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn without_a_file_everything_goes_to_one_upstream() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = |url| Config::for_upstream(url, listen, None, &["https://app.example.com".into()]);
    let settings = config("http://localhost:50051").unwrap().settings;
    assert_eq!(settings.downstream.routes.len(), 1);
    let error = config("localhost:50051").unwrap_err().to_string();
    assert!(error.starts_with("\"localhost:50051\" is not an endpoint"), "{error}");
}

/// `listeners[].tls.client_ca` and so on, from the schema.
fn keys(schema: &Value, node: &Value, path: &str, found: &mut BTreeSet<String>) {
    let node = match node.get("$ref") {
        Some(Value::String(reference)) => schema.pointer(&reference[1..]).unwrap(),
        _ => node,
    };
    if let Some(Value::Object(properties)) = node.get("properties") {
        for (name, property) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            assert!(property.get("description").is_some(), "{path} has no description in the schema");
            found.insert(path.clone());
            keys(schema, property, &path, found);
        }
    }
    if let Some(Value::Array(kinds)) = node.get("anyOf") {
        for kind in kinds {
            keys(schema, kind, path, found);
        }
    }
    if let Some(items) = node.get("items") {
        keys(schema, items, &format!("{path}[]"), found);
    }
    if let Some(values @ Value::Object(_)) = node.get("additionalProperties") {
        keys(schema, values, &format!("{path}.NAME"), found);
    }
}

#[test]
fn the_schema_and_the_documentation_have_the_same_keys() {
    let schema: Value = serde_json::from_str(&config::schema()).unwrap();
    let mut in_schema = BTreeSet::new();
    keys(&schema, &schema, "", &mut in_schema);
    assert!(in_schema.len() > 40, "{in_schema:?}");

    let text = fs::read_to_string("docs/configuration.md").unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let in_docs: BTreeSet<String> = rows.map(|(key, _)| key.to_owned()).collect();
    let missing: Vec<_> = in_schema.difference(&in_docs).collect();
    let unknown: Vec<_> = in_docs.difference(&in_schema).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not documented: {missing:?}; not in the schema: {unknown:?}"
    );
}

#[test]
fn the_schema_demands_what_reading_demands_and_knows_no_null() {
    let schema: Value = serde_json::from_str(&config::schema()).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["listeners", "upstreams"]));
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["drain"]["anyOf"][0]["type"], "string");
    assert_eq!(schema["$defs"]["Log"]["properties"]["format"]["enum"], serde_json::json!(["text", "json"]));
    assert!(!config::schema().contains("null"));
}
