//! What an operator wants of metadata that passes: entries taken away, renamed, set and added.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Rules for metadata, applied in the order of the fields. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataRules {
    /// Names whose entries are dropped.
    pub remove: Vec<HeaderName>,
    /// Entries that get another name, in place of what was there under it. All at once: no entry is renamed twice.
    pub rename: Vec<(HeaderName, HeaderName)>,
    /// Entries in place of all others of their names.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Entries besides others of their names.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl MetadataRules {
    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.rename.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Does everything: to a request's metadata, and to the first that a service says.
    pub fn apply(&self, metadata: &mut HeaderMap) {
        self.take(metadata);
        for (name, value) in &self.set {
            metadata.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            metadata.append(name, value.clone());
        }
    }

    /// Removes and renames only: what is done to trailers behind headers that have got the rest.
    pub fn take(&self, metadata: &mut HeaderMap) {
        for name in &self.remove {
            metadata.remove(name);
        }
        let renamed: Vec<_> = self
            .rename
            .iter()
            .filter(|(from, _)| metadata.contains_key(from))
            .map(|(from, to)| (from, to, metadata.get_all(from).iter().cloned().collect::<Vec<_>>()))
            .collect();
        for (from, _, _) in &renamed {
            metadata.remove(*from);
        }
        for (_, to, values) in renamed {
            metadata.remove(to);
            for value in values {
                metadata.append(to, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }

    fn entry(key: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (name(key), HeaderValue::from_static(value))
    }

    fn after(rules: &MetadataRules, before: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut metadata = HeaderMap::new();
        for (key, value) in before {
            metadata.append(*key, HeaderValue::from_static(value));
        }
        rules.apply(&mut metadata);
        let mut entries: Vec<_> =
            metadata.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        entries.sort();
        entries
    }

    #[test]
    fn entries_are_removed_renamed_set_and_added_in_this_order() {
        let rules = MetadataRules {
            remove: vec![name("x-user"), name("x-gone")],
            rename: vec![(name("x-alias"), name("x-user"))],
            set: vec![entry("x-edge", "eu")],
            add: vec![entry("x-edge", "west"), entry("x-tag", "new")],
        };
        let before = [
            ("x-user", "forged"),
            ("x-gone", "1"),
            ("x-alias", "ada"),
            ("x-alias", "bob"),
            ("x-edge", "forged"),
            ("x-tag", "old"),
            ("x-other", "stays"),
        ];
        assert_eq!(
            after(&rules, &before),
            [
                "x-edge=eu",
                "x-edge=west",
                "x-other=stays",
                "x-tag=new",
                "x-tag=old",
                "x-user=ada",
                "x-user=bob"
            ]
        );
    }

    #[test]
    fn two_names_can_be_exchanged_and_what_is_not_there_replaces_nothing() {
        let rename = vec![(name("a"), name("b")), (name("b"), name("a")), (name("none"), name("c"))];
        let rules = MetadataRules { rename, ..MetadataRules::default() };
        assert_eq!(after(&rules, &[("a", "1"), ("b", "2"), ("c", "3")]), ["a=2", "b=1", "c=3"]);
    }

    #[test]
    fn behind_headers_trailers_only_lose_and_rename() {
        let rules = MetadataRules {
            remove: vec![name("x-secret")],
            rename: vec![(name("x-a"), name("x-b"))],
            set: vec![entry("x-edge", "eu")],
            add: vec![entry("x-tag", "new")],
        };
        let mut trailers: HeaderMap = [entry("x-secret", "1"), entry("x-a", "2")].into_iter().collect();
        rules.take(&mut trailers);
        assert_eq!(trailers, [entry("x-b", "2")].into_iter().collect::<HeaderMap>());
    }
}
