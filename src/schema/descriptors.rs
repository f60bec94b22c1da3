//! Descriptor files that fit together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use prost_reflect::{DescriptorPool, prost::Message as _};

use super::json::bundled;

/// Descriptor files that fit together, with everything that they import.
#[derive(Clone)]
pub struct Descriptors {
    pool: DescriptorPool,
    /// By name, each as it came.
    files: BTreeMap<String, File>,
}

/// Whether they were made from the same files.
impl PartialEq for Descriptors {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

// By the files' names only: the pool would print itself without end.
impl fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptors").field("files", &self.files.keys()).finish_non_exhaustive()
    }
}

/// A file as it came: what `prost-reflect` does not know of it (custom options of extensions that are not here,
/// editions' features) is in the bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct File {
    pub(super) head: Head,
    pub(super) bytes: Bytes,
}

/// What has to be known of a file before it can be used.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Head {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) dependency: Vec<String>,
    #[prost(string, tag = "12")]
    pub(super) syntax: String,
}

/// `google.protobuf.FileDescriptorSet`, its files as they are.
#[derive(Clone, PartialEq, prost::Message)]
struct RawSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

/// The largest descriptor set that is read.
const MAX_SET: u64 = 256 << 20;

/// Why descriptors cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorsError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What should be a `FileDescriptorSet` is none.
    #[error(
        "not a descriptor set ({0}); make one with `protoc --include_imports --descriptor_set_out=FILE …` or \
         `buf build -o FILE.binpb`"
    )]
    NotASet(String),
    /// What should be a `FileDescriptorProto` is none.
    #[error("a file's descriptor cannot be decoded: {0}")]
    NotAFile(String),
    /// The files do not fit together.
    #[error("{problem}{}", missing_note(missing))]
    Unfit {
        /// What does not fit.
        problem: String,
        /// Imports that are not there.
        missing: Vec<String>,
    },
    /// .proto files do not compile.
    #[error("{0}")]
    Compile(String),
    /// There is no service in them.
    #[error("there is no service in it")]
    NoService,
}

fn missing_note(missing: &[String]) -> String {
    match missing {
        [] => String::new(),
        missing => format!("; these imports are missing: {}", missing.join(", ")),
    }
}

impl File {
    pub(super) fn decode(bytes: Bytes) -> Result<Self, DescriptorsError> {
        let head = Head::decode(bytes.clone()).map_err(|e| DescriptorsError::NotAFile(e.to_string()))?;
        Ok(Self { head, bytes })
    }
}

impl Descriptors {
    /// From an encoded `google.protobuf.FileDescriptorSet`.
    pub fn from_set(encoded: Bytes) -> Result<Self, DescriptorsError> {
        let set = RawSet::decode(encoded).map_err(|error| DescriptorsError::NotASet(error.to_string()))?;
        let files: Result<Vec<_>, _> = set.file.into_iter().map(File::decode).collect();
        Self::from_files(files.map_err(|error| DescriptorsError::NotASet(error.to_string()))?)
    }

    /// Reads a descriptor set, as `protoc --include_imports --descriptor_set_out` and `buf build` write it.
    pub fn read_set(path: &Path) -> Result<Self, DescriptorsError> {
        let unreadable = |reason: String| DescriptorsError::Read { path: path.to_path_buf(), reason };
        let size = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if size > MAX_SET {
            return Err(unreadable(format!("{size} bytes are too many for a descriptor set")));
        }
        let bytes = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        Self::from_set(bytes.into())?.with_services()
    }

    /// Compiles .proto files. Imports are looked for in `includes`; without any, in the files' own directories.
    pub fn compile(files: &[PathBuf], includes: &[PathBuf]) -> Result<Self, DescriptorsError> {
        for path in files.iter().chain(includes) {
            let unreadable = |error: std::io::Error| DescriptorsError::Read {
                path: path.clone(),
                reason: error.to_string(),
            };
            fs::metadata(path).map_err(unreadable)?;
        }
        let own: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        let includes: Vec<&Path> = if includes.is_empty() {
            own.into_iter().collect()
        } else {
            includes.iter().map(|i| &**i).collect()
        };
        let failed = |error: protox::Error| DescriptorsError::Compile(compile_error(&error));
        let mut compiler = protox::Compiler::new(includes).map_err(failed)?;
        compiler.include_imports(true).include_source_info(true).open_files(files).map_err(failed)?;
        Self::from_set(compiler.encode_file_descriptor_set().into())?.with_services()
    }

    fn with_services(self) -> Result<Self, DescriptorsError> {
        if self.pool.services().len() == 0 { Err(DescriptorsError::NoService) } else { Ok(self) }
    }

    /// From files in any order. What they import of `google.protobuf` need not be among them.
    pub(super) fn from_files(files: Vec<File>) -> Result<Self, DescriptorsError> {
        let mut files: BTreeMap<String, File> =
            files.into_iter().map(|file| (file.head.name.clone(), file)).collect();
        add_bundled(&mut files);
        let imports = files.values().flat_map(|file| &file.head.dependency);
        let missing: BTreeSet<String> = imports.filter(|name| !files.contains_key(*name)).cloned().collect();
        // An import may be missing when nothing of it is used, as is often the case with those for options.
        let stand_ins = missing.iter().map(|name| Head {
            name: name.clone(),
            dependency: Vec::new(),
            syntax: "proto3".into(),
        });
        let mut set = RawSet { file: stand_ins.map(|head| head.encode_to_vec().into()).collect() };
        for file in files.values() {
            set.file.push(super::editions::lowered(file)?);
        }
        let mut pool = DescriptorPool::new();
        pool.decode_file_descriptor_set(&*set.encode_to_vec()).map_err(|error| DescriptorsError::Unfit {
            problem: error.to_string(),
            missing: missing.into_iter().collect(),
        })?;
        Ok(Self { pool, files })
    }

    pub(super) fn file(&self, name: &str) -> Option<&File> {
        self.files.get(name)
    }

    /// The types.
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The full names of the services, sorted.
    pub fn services(&self) -> Vec<String> {
        let mut names: Vec<_> = self.pool.services().map(|service| service.full_name().to_owned()).collect();
        names.sort();
        names
    }

    /// An encoded `FileDescriptorSet` of everything, dependencies first, each file as it came.
    pub fn encode(&self) -> Bytes {
        self.encode_from(self.files.keys())
    }

    /// The same of one symbol's file and what that imports; `None` when there is no such symbol.
    pub fn encode_symbol(&self, symbol: &str) -> Option<Bytes> {
        let pool = &self.pool;
        let file = pool.get_service_by_name(symbol).map(|service| service.parent_file());
        let file = file.or_else(|| Some(pool.get_message_by_name(symbol)?.parent_file()));
        let file = file.or_else(|| Some(pool.get_enum_by_name(symbol)?.parent_file()))?;
        Some(self.encode_from([&file.name().to_owned()]))
    }

    /// Several encoded `FileDescriptorSet`s as one, each file once.
    pub(super) fn join(sets: &[Bytes]) -> Bytes {
        let mut joined = RawSet::default();
        let mut done = BTreeSet::new();
        for set in sets {
            let set = RawSet::decode(set.clone()).unwrap_or_default();
            let files = set.file.into_iter().filter_map(|file| File::decode(file).ok());
            joined
                .file
                .extend(files.filter(|file| done.insert(file.head.name.clone())).map(|file| file.bytes));
        }
        joined.encode_to_vec().into()
    }

    fn encode_from<'a>(&'a self, roots: impl IntoIterator<Item = &'a String>) -> Bytes {
        let mut set = RawSet::default();
        let mut done = BTreeSet::new();
        // Depth first with a list of our own: the imports are another's, and may be a long chain.
        let mut open: Vec<(&str, bool)> = roots.into_iter().map(|name| (name.as_str(), false)).collect();
        open.reverse();
        while let Some((name, imported)) = open.pop() {
            let Some((name, file)) = self.files.get_key_value(name) else { continue };
            if imported {
                set.file.push(file.bytes.clone());
            } else if done.insert(name) {
                open.push((name, true));
                open.extend(file.head.dependency.iter().rev().map(|name| (name.as_str(), false)));
            }
        }
        set.encode_to_vec().into()
    }

    /// Whether both are the same files, byte for byte.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(|((a, x), (b, y))| a == b && x.bytes == y.bytes)
    }
}

/// Adds the files of `google.protobuf` that are imported and not there.
fn add_bundled(files: &mut BTreeMap<String, File>) {
    let mut open: Vec<String> = files.values().flat_map(|file| file.head.dependency.clone()).collect();
    while let Some(name) = open.pop() {
        if !files.contains_key(&name)
            && let Some(file) = bundled_file(&name)
        {
            open.extend(file.head.dependency.iter().cloned());
            files.insert(name, file);
        }
    }
}

/// A file of `google.protobuf` that need not be fetched.
pub(super) fn bundled_file(name: &str) -> Option<File> {
    let file = bundled().get_file_by_name(name).filter(|_| name.starts_with("google/"))?;
    File::decode(file.encode_to_vec().into()).ok()
}

/// protox's error with the place, in one line.
fn compile_error(error: &protox::Error) -> String {
    // `{:?}` is `file:line:column: sentence`.
    let text = format!("{error:?}");
    let text: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    text.join("; ")
}

/// The messages that may be extended, in these files.
pub(super) fn extendable(files: &HashMap<String, File>) -> BTreeSet<String> {
    fn add(prefix: &str, message: &prost_types::DescriptorProto, out: &mut BTreeSet<String>) {
        let name = if prefix.is_empty() {
            message.name().to_owned()
        } else {
            format!("{prefix}.{}", message.name())
        };
        for nested in &message.nested_type {
            add(&name, nested, out);
        }
        if !message.extension_range.is_empty() {
            out.insert(name);
        }
    }
    let mut out = BTreeSet::new();
    for file in files.values().filter(|file| !file.head.name.starts_with("google/protobuf/")) {
        if let Ok(file) = prost_types::FileDescriptorProto::decode(file.bytes.clone()) {
            for message in &file.message_type {
                add(file.package(), message, &mut out);
            }
        }
    }
    out
}
