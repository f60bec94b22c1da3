//! What is wrong with a configuration: all of it.

use std::fmt;

use super::node::Position;

/// A configuration that cannot be used, with everything that is wrong with it, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named; `None`: the command line.
    file: Option<String>,
    problems: Vec<(Position, String)>,
}

impl ConfigError {
    /// How many things are wrong. At least one.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    pub(super) fn one(file: Option<String>, at: Position, text: String) -> Self {
        Self { file, problems: vec![(at, text)] }
    }
}

/// One problem a line: `file:line:column: what is wrong`.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (at, text)) in self.problems.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            match &self.file {
                Some(file) if at.line > 0 => write!(f, "{file}:{}:{}: ", at.line, at.column)?,
                Some(file) => write!(f, "{file}: ")?,
                None => {}
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(Position, String)>);

impl Problems {
    pub(super) fn add(&mut self, at: Position, text: impl Into<String>) {
        self.0.push((at, text.into()));
    }

    /// The result, if nothing was wrong.
    pub(super) fn finish<T>(mut self, file: Option<String>, result: Option<T>) -> Result<T, ConfigError> {
        match result {
            Some(result) if self.0.is_empty() => Ok(result),
            _ => {
                self.0.sort_by_key(|(at, _)| *at);
                Err(ConfigError { file, problems: self.0 })
            }
        }
    }
}

/// The known word that is close enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= 1 + name.len().min(word.len()) / 4)
        .map(|(_, name)| name)
}

/// ` (did you mean …?)` when a known word is close enough, else nothing.
pub(super) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(word, known).map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_proposed_and_a_far_one_is_not() {
        let known = ["listeners", "limits", "upstreams"];
        let meant = |word| did_you_mean(word, known.into_iter());
        assert_eq!(meant("listner"), " (did you mean `listeners`?)");
        assert_eq!(meant("upstream"), " (did you mean `upstreams`?)");
        assert_eq!(meant("timeout"), "");
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let mut problems = Problems::default();
        problems.add(Position { line: 9, column: 1 }, "second");
        problems.add(Position { line: 2, column: 7 }, "first");
        let error = problems.finish::<()>(Some("a.yaml".into()), None).unwrap_err();
        assert_eq!(error.to_string(), "a.yaml:2:7: first\na.yaml:9:1: second");
        assert_eq!(error.count(), 2);
    }
}
