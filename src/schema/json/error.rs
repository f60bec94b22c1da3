//! Why a message has no other form.

use std::fmt;

use crate::wire::Code;

/// Why JSON is not a message of its type, or bytes are none. Shows the method, the path of the field and what is
/// wrong: `demo.v1.Greeter/Hello: at items[2].count: expected a 32-bit integer, found "x"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    method: String,
    path: String,
    problem: String,
    missing_type: Option<String>,
    code: Code,
}

impl JsonError {
    /// JSON of a client that is not the message it should be.
    pub(super) fn invalid(path: String, problem: String, missing_type: Option<String>) -> Self {
        Self { method: String::new(), path, problem, missing_type, code: Code::INVALID_ARGUMENT }
    }

    /// Bytes that have no JSON.
    pub(super) fn unspeakable(path: String, problem: String) -> Self {
        Self { method: String::new(), path, problem, missing_type: None, code: Code::INTERNAL }
    }

    /// The same, of a message of this method.
    pub(in crate::schema) fn of(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    /// INVALID_ARGUMENT for JSON from a client; INTERNAL for bytes that are no message of their type.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Where in the message: `items[2].count`; empty for the message itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong there.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// The message type of an `Any` that the schema does not have; ask
    /// [`Schema::method_with_type`](crate::schema::Schema::method_with_type) for it, and try again.
    pub fn missing_type(&self) -> Option<&str> {
        self.missing_type.as_deref()
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.method.is_empty() {
            write!(f, "{}: ", self.method)?;
        }
        if !self.path.is_empty() {
            write!(f, "at {}: ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for JsonError {}
