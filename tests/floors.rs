//! Holds the floors of `docs/architecture.md`: who may use whom, what the pure floors must not touch, and that only
//! `main.rs` prints or exits. It reads the sources as tokens, so that comments and strings do not count; what
//! stands under `#[cfg(test)]` may use what it likes.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read fails the test, as it should")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each floor, and the floors it may use besides itself.
const FLOORS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("session", &["wire"]),
    ("telemetry", &["wire"]),
    ("schema", &["telemetry", "wire"]),
    ("upstream", &["telemetry", "wire"]),
    ("downstream", &["schema", "session", "telemetry", "upstream", "wire"]),
    ("server", &["downstream", "schema", "telemetry", "upstream"]),
    ("config", &["downstream", "schema", "server", "session", "telemetry", "upstream", "wire"]),
    ("demo", &["config", "downstream", "schema", "server", "session", "telemetry", "upstream", "wire"]),
];

/// The floors that only compute: bytes and the time come in as arguments.
const PURE: &[&str] = &["session", "wire"];

/// What a pure floor must not mention, as parts of a path.
const IMPURE: &[&[&str]] = &[
    &["async"],
    &["await"],
    &["Instant", "now"],
    &["SystemTime"],
    &["Mutex"],
    &["RwLock"],
    &["getrandom"],
    &["rand"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["tokio"],
];

const PRINTS: &[&str] = &["dbg", "eprint", "eprintln", "print", "println"];

/// A word or a mark of Rust; `::` is one mark.
type Token = String;

#[test]
fn every_file_keeps_to_its_floor() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&src);
    let mut seen = BTreeSet::new();
    let mut uses = BTreeSet::new();
    let mut breaches = Vec::new();
    for (path, text) in &files {
        let file = File::new(path, text);
        seen.insert(file.floor.clone());
        uses.extend(file.uses().into_iter().map(|used| (file.floor.clone(), used)));
        breaches.extend(file.breaches());
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));

    // A check that looks at nothing finds nothing: these are the proofs that it looked.
    for (floor, _) in FLOORS {
        assert!(seen.contains(*floor), "no file of src/{floor}/ was seen");
    }
    assert!(files.len() >= 35, "only {} files were seen", files.len());
    for (floor, used) in [("session", "wire"), ("upstream", "wire")] {
        assert!(uses.contains(&(floor.into(), used.into())), "{floor} was not seen to use {used}");
    }
}

/// A source file as the checks see it.
struct File {
    path: String,
    /// `wire` for `src/wire/…`; `main.rs` and `lib.rs` stand for themselves.
    floor: String,
    /// How many modules lie between the crate's root and this file's own names: 2 for `src/wire/frame.rs`.
    depth: usize,
    tokens: Vec<Token>,
}

impl File {
    /// `path` is relative to `src`, with `/` between its parts.
    fn new(path: &str, text: &str) -> Self {
        let parts: Vec<&str> = path.split('/').collect();
        let own = usize::from(!matches!(parts[parts.len() - 1], "mod.rs" | "lib.rs" | "main.rs"));
        Self {
            path: path.into(),
            floor: parts[0].into(),
            depth: parts.len() - 1 + own,
            tokens: without_tests(tokens(text)),
        }
    }

    fn breaches(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut breach = |what: String| out.push(format!("src/{}: {what}", self.path));
        if self.floor == "main.rs" {
            return out;
        }
        if self.tokens.windows(2).any(|pair| PRINTS.contains(&&*pair[0]) && pair[1] == "!") {
            breach("prints; only main.rs may, others log".into());
        }
        let paths = paths(&self.tokens);
        if paths
            .iter()
            .any(|(_, path)| contains(path, &["process", "exit"]) || contains(path, &["process", "abort"]))
        {
            breach("ends the process; only main.rs may".into());
        }
        if self.floor == "lib.rs" {
            return out;
        }
        let Some((_, allowed)) = FLOORS.iter().find(|(floor, _)| *floor == self.floor) else {
            breach("is on no floor of the table in tests/floors.rs".into());
            return out;
        };
        for used in self.uses() {
            if used != self.floor && !allowed.contains(&&*used) {
                breach(format!("uses crate::{used}; {} may use {allowed:?}", self.floor));
            }
        }
        if self.tokens.windows(2).any(|pair| pair == ["crate", "as"]) {
            breach("renames the crate, which hides what it uses".into());
        }
        for (inline, path) in &paths {
            let supers = path.iter().take_while(|part| *part == "super").count();
            if supers > 0 && supers >= self.depth + inline {
                breach("leaves its floor with `super`; across floors write `crate::floor`".into());
            }
            for word in IMPURE.iter().filter(|word| PURE.contains(&&*self.floor) && contains(path, word)) {
                breach(format!("mentions `{}`; {} is pure", word.join("::"), self.floor));
            }
        }
        out
    }

    /// What is mentioned right behind `crate::`.
    fn uses(&self) -> BTreeSet<String> {
        let paths = paths(&self.tokens);
        let from_root = paths.into_iter().filter(|(_, path)| path[0] == "crate" && path.len() > 1);
        from_root.map(|(_, path)| path[1].clone()).collect()
    }
}

/// All sources under `src` by their relative path, without the files of `#[cfg(test)] mod name;`.
fn sources(src: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![src.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    let tests: Vec<PathBuf> = files.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    files.retain(|(path, _)| {
        !tests.iter().any(|test| path.starts_with(test) || *path == test.with_extension("rs"))
    });
    let relative = |path: &Path| {
        let parts = path.strip_prefix(src).unwrap().iter().map(|part| part.to_str().unwrap());
        parts.collect::<Vec<_>>().join("/")
    };
    files.into_iter().map(|(path, text)| (relative(&path), text)).collect()
}

/// The modules that a file declares for tests only, as paths without `.rs`.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = match path.file_stem().unwrap().to_str().unwrap() {
        "lib" | "main" | "mod" => path.parent().unwrap().to_path_buf(),
        _ => path.with_extension(""),
    };
    let tokens = tokens(text);
    let declared =
        tokens.windows(10).filter(|window| window[..8].join("") == "#[cfg(test)]mod" && window[9] == ";");
    declared.map(|window| folder.join(&window[8])).collect()
}

/// Splits a source into words and marks; comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(len) = raw_string(rest) {
            len
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            character_or_lifetime(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            // The prefix of a byte or C string is no word.
            if !(len == 1 && rest[len..].starts_with(['"', '\''])) {
                out.push(rest[..len].into());
            }
            len
        } else if first.is_whitespace() {
            first.len_utf8()
        } else {
            let len = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            out.push(rest[..len].into());
            len
        };
        rest = &rest[len..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        let Some(next) = text[at..].find("/*").into_iter().chain(text[at..].find("*/")).min() else {
            return text.len();
        };
        depth = if text[at + next..].starts_with("/*") { depth + 1 } else { depth - 1 };
        at += next + 2;
        if depth == 0 {
            return at;
        }
    }
}

fn raw_string(text: &str) -> Option<usize> {
    let rest =
        text.strip_prefix("br").or_else(|| text.strip_prefix("cr")).or_else(|| text.strip_prefix('r'))?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let body = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(body.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

fn character_or_lifetime(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(text, '\''),
        _ => 1,
    }
}

/// Drops every item under `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].iter().take(7).map(String::as_str).eq(["#", "[", "cfg", "(", "test", ")", "]"]) {
            at = item_end(&tokens, at + 7);
        } else {
            out.push(tokens[at].clone());
            at += 1;
        }
    }
    out
}

/// Where the item that begins at `at` ends: behind its `;`, or behind its outermost braces.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0;
    // The braces of `use a::{b, c};` end nothing: there the `;` counts.
    let mut is_use = false;
    while at < tokens.len() {
        match &*tokens[at] {
            "use" if depth == 0 => is_use = true,
            "{" | "(" | "[" => depth += 1,
            "}" if depth == 1 && !is_use => return at + 1,
            "}" | ")" | "]" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Every path that is mentioned, with the number of inline modules round it. The groups of `use` are spread:
/// `a::{b, c::d}` gives `a::b` and `a::c::d`. A single word is a path, too.
fn paths(tokens: &[Token]) -> Vec<(usize, Vec<String>)> {
    let mut out = Vec::new();
    // For each open brace, whether it is a module's.
    let mut braces = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match &*tokens[at] {
            "{" => braces.push(at >= 2 && tokens[at - 2] == "mod"),
            "}" => drop(braces.pop()),
            word if is_word(word) => {
                let mut found = Vec::new();
                at = path(tokens, at, Vec::new(), &mut found);
                let inline = braces.iter().filter(|module| **module).count();
                out.extend(found.into_iter().map(|path| (inline, path)));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    out
}

/// Reads the path at `at` behind `prefix`; returns where it ends.
fn path(tokens: &[Token], mut at: usize, mut prefix: Vec<String>, out: &mut Vec<Vec<String>>) -> usize {
    while at < tokens.len() {
        match &*tokens[at] {
            "{" => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = if tokens[at] == "," {
                        at + 1
                    } else {
                        path(tokens, at, prefix.clone(), out).max(at + 1)
                    };
                }
                return at + 1;
            }
            word if is_word(word) || word == "*" => prefix.push(word.into()),
            _ => break,
        }
        at += 1;
        if tokens.get(at).is_none_or(|mark| mark != "::") {
            break;
        }
        at += 1;
    }
    out.push(prefix);
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn contains(path: &[String], part: &[&str]) -> bool {
    path.windows(part.len()).any(|window| window.iter().eq(part))
}

mod the_check_itself {
    use super::*;

    fn breaches(path: &str, text: &str) -> usize {
        File::new(path, text).breaches().len()
    }

    #[test]
    fn finds_a_look_upwards_however_it_is_written() {
        for text in [
            "use crate::session::Session;",
            "use crate::{code, session::Session};",
            "use crate::{self as root, session};",
            "fn f() { crate :: session :: f() }",
            "type T = Vec<crate::session::Session>;",
            "use crate::*;",
            "use crate as root;",
            "pub(in crate::session) fn f() {}",
            "use super::super::session::Session;",
            "mod inner { use super::super::super::session; }",
            "macro_rules! m { () => { $crate::session::f() } }",
        ] {
            assert!(breaches("wire/frame.rs", text) > 0, "{text}");
        }
        assert_eq!(breaches("upstream/call.rs", "use crate::downstream::Edge;"), 1);
        assert_eq!(breaches("telemetry/log.rs", "use crate::session::Event;"), 1);
        assert_eq!(breaches("wire/mod.rs", "use super::session;"), 1);
        assert_eq!(breaches("server/mod.rs", "use crate::config::Config;"), 1);
    }

    #[test]
    fn lets_pass_what_the_table_allows() {
        for (path, text) in [
            ("wire/frame.rs", "use super::v1; use crate::wire::Code; mod field { use super::super::v1; }"),
            ("wire/mod.rs", "mod inner { use super::code; } pub(crate) fn f() {}"),
            ("session/core.rs", "use crate::{session::Event, wire::{Code, v1}};"),
            ("downstream/carrier/mod.rs", "use super::edge; use crate::{session::Session, upstream::Call};"),
            ("upstream/call.rs", "use tokio::time::Instant; async fn f() { g().await }"),
            ("config/mod.rs", "use crate::server::Settings;"),
            ("main.rs", "fn main() { println!(); std::process::exit(1) }"),
        ] {
            assert_eq!(File::new(path, text).breaches(), Vec::<String>::new());
        }
    }

    #[test]
    fn finds_impurity_in_the_pure_floors() {
        for text in [
            "use tokio::time::Instant;",
            "async fn f() {}",
            "fn f() { g().await }",
            "let t = Instant::now();",
            "let t = std::time::Instant::now();",
            "use std::time::{Duration, SystemTime};",
            "use std::net::SocketAddr;",
            "use std::{fmt, net::{IpAddr, SocketAddr}};",
            "use std::{fmt, fs};",
            "use std::sync::{Arc, Mutex};",
            "struct S { a: parking_lot::RwLock<u8> }",
            "let x = rand::random();",
            "getrandom::fill(&mut x);",
            "let path = r\"C:\\\"; use tokio::sync;",
            "let c = '\"'; use tokio::sync; let c = '\"';",
            "fn f<'a>(x: &'a str) { tokio::spawn(x) }",
            "#[cfg(test)] use std::{fs, net}; use tokio::net;",
            "#[cfg(test)] fn f() {} use std::fs;",
            "#[cfg(not(test))] use std::fs;",
        ] {
            assert!(breaches("session/core.rs", text) > 0, "{text}");
        }
    }

    #[test]
    fn ignores_comments_strings_and_tests() {
        for text in [
            "// tokio::spawn(async {})",
            "/// Like [`crate::server`], but `async`.",
            "/* tokio /* nested */ async */",
            "const S: &str = \"tokio \\\" async\";",
            "const S: &str = r#\"tokio \" async\"#; const B: &[u8] = b\"tokio\";",
            "const C: (char, u8, char) = ('\\'', b'\"', '\"');",
            "#[cfg(test)] mod tests { use std::fs; mod inner { async fn f() {} } }",
            "#[cfg(test)] #[expect(unused)] fn f() { println!(\"{}\", 1) }",
            "#[cfg(test)] use std::{fs, net};",
            "#[cfg(test)] mod tests;",
        ] {
            assert_eq!(File::new("wire/code.rs", text).breaches(), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn finds_prints_and_exits_outside_main() {
        for text in [
            "fn f() { println!(\"x\") }",
            "fn f() { eprintln!() }",
            "fn f() { dbg!(1); }",
            "fn f() { std::process::exit(1) }",
            "use std::process::{Command, exit};",
            "use std::process; fn f() { process::abort() }",
        ] {
            assert_eq!(breaches("server/mod.rs", text), 1, "{text}");
            assert_eq!(breaches("lib.rs", text), 1, "{text}");
        }
    }

    #[test]
    fn wants_every_file_on_a_floor() {
        assert_eq!(breaches("attic/mod.rs", ""), 1);
        assert_eq!(breaches("util.rs", ""), 1);
    }

    #[test]
    fn knows_the_files_of_test_modules() {
        let text = "#[cfg(test)]\nmod tests;\nmod real;";
        assert_eq!(test_modules(Path::new("src/wire/frame.rs"), text), [Path::new("src/wire/frame/tests")]);
        assert_eq!(test_modules(Path::new("src/session/mod.rs"), text), [Path::new("src/session/tests")]);
    }
}
