//! `listeners.json`: where the listeners really are.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Listener;

/// The file, removed when this is dropped.
#[derive(Debug)]
pub struct Announcement {
    path: PathBuf,
}

impl Announcement {
    /// The file's name in the data directory.
    pub const NAME: &'static str = "listeners.json";

    /// Writes the file as a whole: who sees it sees all of it. `endpoints` are those of ZeroMQ devices.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn write<'a>(
        data_dir: &Path,
        listeners: impl IntoIterator<Item = &'a Listener>,
        endpoints: Vec<String>,
    ) -> io::Result<Announcement> {
        let mut addresses: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for listener in listeners {
            addresses.entry(listener.protocol.name()).or_default().push(listener.address.to_string());
        }
        if !endpoints.is_empty() {
            addresses.insert("zmtp", endpoints);
        }
        let path = data_dir.join(Self::NAME);
        let fresh = data_dir.join("listeners.json.new");
        let mut file = std::fs::File::create(&fresh)?;
        serde_json::to_writer(&mut file, &addresses)?;
        file.write_all(b"\n")?;
        drop(file);
        std::fs::rename(&fresh, &path)?;
        Ok(Announcement { path })
    }

    /// Removes what a server left behind that was killed.
    pub fn clear(data_dir: &Path) {
        let _ = std::fs::remove_file(data_dir.join(Self::NAME));
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
