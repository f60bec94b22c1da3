//! Metrics as operators know them: the program, `docs/metrics.md`, the dashboard and the alert rules say the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use bidiway::telemetry::{CarrierKind, Dialect, Metrics};
use serde_json::Value;

/// A metric's type and its labels.
type Form = (String, BTreeSet<String>);

/// Names as they are exposed, without the suffixes of histograms.
type Known = BTreeMap<String, Form>;

/// Labels that Prometheus adds to what it scrapes, and that histograms' buckets have.
const ADDED: [&str; 4] = ["job", "instance", "le", "alertname"];

fn known(entries: impl IntoIterator<Item = (String, Form)>) -> Known {
    let mut known = Known::new();
    for (name, form) in entries {
        assert!(known.insert(name.clone(), form).is_none(), "{name} is there twice");
    }
    known
}

/// `docs/metrics.md`: the rows of its tables.
fn documented() -> Known {
    let text = fs::read_to_string("docs/metrics.md").unwrap();
    let ticked =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    known(text.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() >= 4, "a row has name, type, labels and meaning: {line}");
        assert!(cells[3].len() > 3, "the meaning is missing: {line}");
        let name = ticked(cells[0]).remove(0);
        (name, (cells[1].to_owned(), ticked(cells[2]).into_iter().collect()))
    }))
}

fn telemetry() -> String {
    let mut files: Vec<_> =
        fs::read_dir("src/telemetry").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut all = String::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "rs")) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            all.push_str(line.trim());
            all.push(' ');
        }
        all.push('\u{1}');
    }
    all
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The fields of a struct of labels.
fn labels(telemetry: &str, name: &str) -> BTreeSet<String> {
    let start = telemetry.find(&format!("struct {name} {{")).unwrap_or_else(|| panic!("no struct {name}"));
    let body = telemetry[start..].split_once('{').unwrap().1.split_once('}').unwrap().0;
    let fields = body.split(',').filter_map(|field| field.trim().rsplit_once(": "));
    // A path such as `pub(super) route`.
    fields.map(|(head, _)| head.split(' ').next_back().unwrap().to_owned()).collect()
}

/// What the sources of `src/telemetry` register under the prefix: also families without any series yet, of which the
/// exposition says nothing.
fn registered() -> Known {
    let telemetry = telemetry();
    let files = telemetry.split('\u{1}');
    known(files.flat_map(|file| {
        file.match_indices("register( \"").chain(file.match_indices("register(\"")).map(|(at, start)| {
            let call = &file[at + start.len()..];
            let name = identifier(call);
            let advice = format!(
                "{name}: register it as `r.register(\"name\", \"sentence\", self.field.clone())`, with the field's type \
                 (`Counter`, `Gauge`, `Histogram` or a `Family<Labels, …>`) in the same file, so that this test can read it"
            );
            // Behind the sentence; none of them has an escaped quote.
            let metric = call.split('"').nth(3).unwrap_or_else(|| panic!("{advice}"));
            let metric = metric.trim_start_matches([',', ' ']);
            let metric = metric.split([')', ',']).next().unwrap().trim_end_matches(".clone(");
            let field = metric.rsplit('.').next().unwrap();
            let declared = file
                .match_indices(&format!("{field}: "))
                .map(|(at, start)| &file[at + start.len()..])
                .find(|rest| ["Family<", "Counter", "Gauge", "Histogram"].iter().any(|t| rest.starts_with(t)));
            let declared = declared.unwrap_or_else(|| panic!("{advice}"));
            let (kind, labels) = match declared.strip_prefix("Family<") {
                None => (identifier(declared), BTreeSet::new()),
                Some(generics) => {
                    let kind = generics.split_once(", ").unwrap_or_else(|| panic!("{advice}")).1;
                    (identifier(kind), labels(&telemetry, identifier(generics)))
                }
            };
            let (kind, suffix) = match kind {
                "Counter" | "Seconds" => ("counter", "_total"),
                "Gauge" => ("gauge", ""),
                "Histogram" => ("histogram", ""),
                other => panic!("{advice}; it is {other}"),
            };
            (format!("bidiway_{name}{suffix}"), (kind.to_owned(), labels))
        })
    }))
}

/// What an exposition tells by itself.
pub(crate) fn exposed(text: &str) -> Known {
    let mut exposed = Known::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            exposed.insert(format!("{name}{suffix}"), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, inner) = series.split_once('{').map_or((series, ""), |(name, inner)| (name, inner));
            let inner = inner.strip_suffix('}').unwrap_or(inner);
            let found = label_names(inner);
            let (_, labels) = exposed.get_mut(family(name)).unwrap_or_else(|| panic!("{name} has no TYPE"));
            labels.extend(found.into_iter().filter(|label| label != "le"));
        }
    }
    exposed
}

/// A histogram's name from those of its series.
fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// The names before `=`, `!=`, `=~`, `!~` in `a="x",b=~"y"`.
fn label_names(selector: &str) -> Vec<String> {
    // What is outside of quotes: names and operators.
    let outside = selector.split('"').step_by(2);
    outside
        .map(|part| identifier(part.trim_start_matches([',', ' '])).to_owned())
        .filter(|n| !n.is_empty())
        .collect()
}

#[test]
fn every_metric_is_in_the_documentation_and_the_other_way_round() {
    let documented = documented();
    let mut program = registered();
    let at_start = exposed(&Metrics::new().encode());
    program.extend(at_start.into_iter().filter(|(name, _)| name.starts_with("process_")));
    assert!(program.len() >= 40, "only {} metrics were found", program.len());
    let mut wrong = Vec::new();
    for (name, (kind, labels)) in &program {
        let ticked: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{name}` | {kind} | {} | What it tells. |", ticked.join(", "));
        match documented.get(name) {
            None => wrong.push(format!(
                "docs/metrics.md lacks {name}; add this row to the table it belongs to:\n  {row}"
            )),
            Some(form) if *form != (kind.clone(), labels.clone()) => wrong.push(format!(
                "docs/metrics.md says of {name} that it is a {} with {:?}, but it is:\n  {row}",
                form.0, form.1
            )),
            Some(_) => {}
        }
    }
    let gone = documented.keys().filter(|name| !program.contains_key(*name));
    wrong.extend(gone.map(|name| format!(
        "docs/metrics.md has {name}, which the program does not register (src/telemetry). Names are stable: removing or \
         renaming one breaks dashboards"
    )));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_exposed_is_what_the_sources_say() {
    let metrics = Metrics::new();
    metrics.calls("*", Dialect::Grpc);
    metrics.upstream("chat").connect_failed();
    metrics.session_closed("drained");
    metrics.refused("origin");
    drop(metrics.carrier_opened(CarrierKind::Http));
    metrics.limits().limited("cancels");
    metrics.limits().proxy_header_failed("malformed");
    metrics.limits().overload("memory", true);
    metrics.limits().shed("memory", "call");
    let mut registered = registered();
    let text = metrics.encode();
    let all = registered.len();
    for (name, form) in exposed(&text).into_iter().filter(|(name, _)| !name.starts_with("process_")) {
        assert_eq!(registered.remove(&name), Some(form), "{name}");
    }
    assert!(all - registered.len() >= 25, "these were not exposed: {registered:?}");
}

/// The metrics of an expression of PromQL, each with the labels of its selector.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for prefix in ["bidiway_", "process_"] {
        for (at, _) in expression.match_indices(prefix) {
            // Not the middle of a recorded metric's name.
            if expression[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':')) {
                continue;
            }
            let name = identifier(&expression[at..]);
            let rest = &expression[at + name.len()..];
            let inner = rest.strip_prefix('{').map(|rest| rest.split_once('}').unwrap().0);
            found.push((name.to_owned(), inner.map(label_names).unwrap_or_default()));
        }
    }
    found
}

/// The labels in `by (…)`, `without (…)` and `on (…)`.
fn grouped(expression: &str) -> Vec<String> {
    let mut labels = Vec::new();
    for word in ["by (", "without (", "on (", "label_values("] {
        for (at, _) in expression.match_indices(word) {
            let inner = expression[at + word.len()..].split_once(')').unwrap().0;
            let inner = if word == "label_values(" { inner.rsplit(',').next().unwrap() } else { inner };
            labels.extend(inner.split(',').map(|label| label.trim().to_owned()));
        }
    }
    labels
}

/// Holds expressions against the documentation, which another test holds against the program.
fn check(from: &str, expressions: &[String], recorded: &BTreeSet<String>) {
    let documented = documented();
    let mut wrong = Vec::new();
    for expression in expressions {
        let found = selectors(expression);
        let mut allowed: BTreeSet<&str> = ADDED.into();
        for (name, labels) in &found {
            let base = if documented.contains_key(name) { name } else { family(name) };
            let Some((kind, own)) = documented.get(base) else {
                wrong.push(format!("{from}: there is no metric {name}, in {expression}"));
                continue;
            };
            if (base != name) != (kind == "histogram") {
                wrong.push(format!("{from}: {base} is a {kind}, in {expression}"));
            }
            let missing =
                labels.iter().filter(|label| !own.contains(*label) && !ADDED.contains(&label.as_str()));
            wrong
                .extend(missing.map(|label| format!("{from}: {name} has no label {label}, in {expression}")));
            allowed.extend(own.iter().map(String::as_str));
        }
        for name in recorded.iter().filter(|name| expression.contains(name.as_str())) {
            allowed.extend(name.split(':').next().unwrap().split('_'));
        }
        let strange = grouped(expression).into_iter().filter(|label| !allowed.contains(label.as_str()));
        wrong.extend(strange.map(|label| format!("{from}: nothing there has a label {label}: {expression}")));
    }
    assert!(wrong.is_empty(), "{}\nsee docs/metrics.md", wrong.join("\n"));
}

/// All strings under a key, at any depth.
fn strings(json: &Value, key: &str, found: &mut Vec<String>) {
    match json {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => strings(value, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
    let text = fs::read_to_string("deploy/grafana/bidiway.json").unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut expressions = Vec::new();
    strings(&dashboard, "expr", &mut expressions);
    strings(&dashboard, "query", &mut expressions);
    assert!(expressions.iter().filter(|text| text.contains("bidiway_")).count() >= 20, "{expressions:?}");
    check("deploy/grafana/bidiway.json", &expressions, &BTreeSet::new());
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "panels have ids of their own");
}

#[test]
fn the_alerts_ask_for_metrics_and_labels_that_exist_and_say_what_to_do() {
    let path = Path::new("deploy/prometheus/alerts.yaml");
    let text = fs::read_to_string(path).unwrap();
    let rules: Value = serde_saphyr::from_str(&text).unwrap();
    let (mut expressions, mut recorded) = (Vec::new(), Vec::new());
    strings(&rules, "expr", &mut expressions);
    strings(&rules, "record", &mut recorded);
    assert!(expressions.len() >= 12, "{expressions:?}");
    check("deploy/prometheus/alerts.yaml", &expressions, &recorded.into_iter().collect());
    for group in rules["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap().iter().filter(|rule| rule.get("alert").is_some()) {
            assert!(rule["labels"]["severity"].is_string(), "{rule}");
            assert!(
                rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string(),
                "{rule}"
            );
        }
    }
}
