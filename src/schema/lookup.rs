//! What reflection asks of descriptors: files by what is in them.

use std::collections::HashSet;

use bytes::Bytes;

use super::Descriptors;

/// Files by their names.
type Files = Vec<(String, Bytes)>;

impl Descriptors {
    /// The name of the file that declares this service, method, message, enum or extension.
    pub fn file_of_symbol(&self, symbol: &str) -> Option<String> {
        let pool = self.pool();
        let service = |name: &str| pool.get_service_by_name(name).map(|service| service.parent_file());
        let method = || {
            let (name, method) = symbol.rsplit_once('.')?;
            let service = pool.get_service_by_name(name)?;
            service.methods().any(|found| found.name() == method).then(|| service.parent_file())
        };
        let file = service(symbol)
            .or_else(|| Some(pool.get_message_by_name(symbol)?.parent_file()))
            .or_else(|| Some(pool.get_enum_by_name(symbol)?.parent_file()))
            .or_else(|| Some(pool.get_extension_by_name(symbol)?.parent_file()))
            .or_else(method)?;
        Some(file.name().to_owned())
    }

    /// The name of the file that declares the extension of a message with this number.
    pub fn file_of_extension(&self, message: &str, number: u32) -> Option<String> {
        let extension = self.pool().get_message_by_name(message)?.get_extension(number)?;
        Some(extension.parent_file().name().to_owned())
    }

    /// The numbers of the extensions of a message; `None`: there is no such message.
    pub fn extension_numbers(&self, message: &str) -> Option<Vec<u32>> {
        Some(self.pool().get_message_by_name(message)?.extensions().map(|found| found.number()).collect())
    }

    /// A file and everything that it imports, itself first, each as it came. Empty: there is no such file.
    pub fn with_imports(&self, name: &str) -> Files {
        let mut files = Files::new();
        let mut seen = HashSet::new();
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            if seen.insert(name)
                && let Some(file) = self.file(name)
            {
                files.push((name.to_owned(), file.bytes.clone()));
                open.extend(file.head.dependency.iter().map(String::as_str));
            }
        }
        files
    }

    /// The same; `None`: there is no such file.
    pub fn try_with_imports(&self, name: &str) -> Option<Files> {
        Some(self.with_imports(name)).filter(|files| !files.is_empty())
    }
}
