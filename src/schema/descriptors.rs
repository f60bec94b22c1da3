//! Descriptor files that fit together.

use std::path::Path;

use bytes::Bytes;
use prost_reflect::DescriptorPool;

/// Descriptor files that fit together, with everything that they import.
#[derive(Clone, Debug)]
pub struct Descriptors {
    pool: DescriptorPool,
    /// An encoded `FileDescriptorSet`, each file as it came.
    encoded: Bytes,
}

/// Why descriptors cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DescriptorsError(pub(super) String);

impl Descriptors {
    /// From an encoded `google.protobuf.FileDescriptorSet` (`protoc --include_imports --descriptor_set_out`).
    pub fn from_set(encoded: Bytes) -> Result<Self, DescriptorsError> {
        let pool =
            DescriptorPool::decode(encoded.clone()).map_err(|error| DescriptorsError(error.to_string()))?;
        Ok(Self { pool, encoded })
    }

    /// Reads a descriptor set.
    pub fn read_set(path: &Path) -> Result<Self, DescriptorsError> {
        let bytes = std::fs::read(path)
            .map_err(|error| DescriptorsError(format!("cannot read {}: {error}", path.display())))?;
        Self::from_set(bytes.into())
    }

    /// The types.
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// An encoded `FileDescriptorSet`, dependencies first, each file as it came.
    pub fn encode(&self) -> Bytes {
        self.encoded.clone()
    }
}
