//! The shim's files, embedded: `build.rs` lists every JavaScript file under `shim/src`.

/// One file of the shim.
#[derive(Debug)]
pub(crate) struct Asset {
    /// Its path under `/bidiway/`.
    pub(crate) path: &'static str,
    /// Changes with its content; with quotes, as the header wants it.
    pub(crate) etag: &'static str,
    /// Its content.
    pub(crate) text: &'static str,
}

/// Sorted by path.
static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The file at a path under `/bidiway/`.
pub(crate) fn find(path: &str) -> Option<&'static Asset> {
    let at = ASSETS.binary_search_by(|asset| asset.path.cmp(path)).ok()?;
    Some(&ASSETS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_file_is_found_under_its_own_path() {
        for asset in ASSETS {
            assert!(std::ptr::eq(find(asset.path).unwrap(), asset), "{}", asset.path);
        }
        assert!(find("no/such/file.js").is_none());
    }
}
