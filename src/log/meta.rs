//! Small files: `LOG`, `NODE`, `CONTROL`, `STATE`, `EPOCHS`, `PROMISE`, `SLOTS` share one form.
//!
//! ```text
//! tidelog <name> <version>
//! <key> <value>
//! …
//! crc <crc32c of everything before this line, 8 hex digits>
//! ```
//!
//! Lines of text, so that an operator can read them with `cat`; a checksum, so that a torn or
//! edited one is told apart. Replaced as a whole: written to a temporary name, synced, renamed,
//! and the directory synced; a crash leaves the old file or the new one, never a mixture.

use std::fmt::{Display, Write as _};
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Open};
use crate::mutant::{self, Mutant};

/// No small file is larger; more is damage.
const MAX_BYTES: u64 = 4 << 20;
const VERSION: u32 = 1;

/// A small file being composed or read.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    name: &'static str,
    /// The lines between the first and the checksum. They are many where the history is long, and such files
    /// are read whenever a log is opened: each is a place in the text, and nothing is allocated for it.
    text: String,
    lines: Vec<Line>,
}

/// Where a line is in the text.
#[derive(Clone, Debug)]
struct Line {
    key: Range<usize>,
    value: Range<usize>,
}

impl PartialEq for Meta {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.lines().eq(other.lines())
    }
}

impl Meta {
    pub(crate) fn new(name: &'static str) -> Self {
        Meta { name, text: String::new(), lines: Vec::new() }
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Display) -> &mut Self {
        let from = self.text.len();
        write!(self.text, "{key} {value}").expect("writing to a string");
        self.end_line(from, key.len());
        self
    }

    /// The text from `from` on is a line, but for its end.
    fn end_line(&mut self, from: usize, key_bytes: usize) {
        debug_assert!(!self.text[from..].contains('\n'), "a value is one line");
        let key = from..from + key_bytes;
        let value = key.end + 1..self.text.len();
        self.text.push('\n');
        self.lines.push(Line { key, value });
    }

    /// Key and value of each line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().map(|line| (&self.text[line.key.clone()], &self.text[line.value.clone()]))
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = format!("tidelog {} {VERSION}\n", self.name);
        text.push_str(&self.text);
        let crc = crc::crc32c(text.as_bytes());
        writeln!(text, "crc {crc:08x}").expect("writing to a string");
        text.into_bytes()
    }

    /// Reads bytes back; the error says what is wrong, the caller adds the file.
    pub(crate) fn decode(name: &'static str, bytes: &[u8]) -> Result<Self> {
        let corrupt =
            |what: &str| Error::new(Kind::Corrupt, format!("expected a {name} file, found {what}"));
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("bytes that are no text"))?;
        let (head, version) = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("tidelog "))
            .and_then(|line| line.split_once(' '))
            .ok_or_else(|| corrupt("another first line"))?;
        if head != name {
            return Err(corrupt(&format!("a {head} file")));
        }
        let Some(at) = text.rfind("crc ") else {
            return Err(corrupt("no checksum"));
        };
        let crc = text[at + 4..].trim_end();
        if format!("{:08x}", crc::crc32c(&bytes[..at])) != crc {
            return Err(corrupt("a checksum that does not hold"));
        }
        if version != VERSION.to_string() {
            return Err(Error::new(
                Kind::NewerVersion,
                format!("expected {name} version {VERSION}, found {version}"),
            )
            .help("use a tidelog that knows this format"));
        }
        let mut meta = Meta::new(name);
        let body = text[..at].split_once('\n').map_or("", |(_, body)| body);
        meta.text.reserve_exact(body.len());
        for line in body.lines() {
            let Some(key_bytes) = line.find(' ') else { continue };
            let from = meta.text.len();
            meta.text.push_str(line);
            meta.end_line(from, key_bytes);
        }
        Ok(meta)
    }

    /// The value of `key`, if it is there and well formed.
    pub(crate) fn get<T: FromStr>(&self, key: &str) -> Option<T> {
        self.all(key).next()
    }

    /// Every well-formed value of `key`.
    pub(crate) fn all<'a, T: FromStr>(&'a self, key: &'a str) -> impl Iterator<Item = T> + 'a {
        self.values(key).filter_map(|value| value.parse().ok())
    }

    /// Every value of `key`, as it stands there.
    pub(crate) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.lines().filter(move |(k, _)| *k == key).map(|(_, value)| value)
    }

    /// The value of `key`, or an error that names it.
    pub(crate) fn need<T: FromStr>(&self, key: &str) -> Result<T> {
        self.get(key).ok_or_else(|| {
            Error::new(
                Kind::Corrupt,
                format!("expected a {} file with a valid `{key}`, found none", self.name),
            )
        })
    }

    /// Reads the file at `path`; `Ok(None)` when there is none.
    pub(crate) fn read(fs: &dyn Fs, path: &Path, name: &'static str) -> Result<Option<Self>> {
        let file = match fs.open_plain(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let io = |e| Error::io("read", path, e);
        let len = file.len().map_err(io)?.min(MAX_BYTES);
        let mut bytes = vec![0; usize::try_from(len).expect("bounded above")];
        let read = file.read_full_at(&mut bytes, 0).map_err(io)?;
        Meta::decode(name, &bytes[..read]).map(Some).map_err(|e| e.in_file(path))
    }

    /// Replaces the file at `path` as a whole, durably.
    pub(crate) fn replace(&self, fs: &dyn Fs, path: &Path) -> Result<()> {
        let directory = path.parent().expect("small files live in the log's directory");
        let temporary = path.with_extension("tmp");
        let io = |what: &'static str| {
            let path = path.to_path_buf();
            move |e| Error::io(what, &path, e)
        };
        match fs.unlink(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &temporary, e));
            }
            _ => {}
        }
        let file = fs.open(&temporary, Open::Create).map_err(io("create"))?;
        file.write_all_at(&self.encode(), 0).map_err(io("write"))?;
        // Closes the crash that renames before the content is there.
        if !mutant::on(Mutant::SkipSmallFileSync) {
            file.sync_data().map_err(io("sync"))?;
        }
        fs.rename(&temporary, path).map_err(io("rename into place"))?;
        if mutant::on(Mutant::SkipRenameSync) {
            return Ok(());
        }
        // Closes the crash that forgets the rename.
        fs.sync_dir(directory).map_err(io("sync the directory of"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_truncation_is_found() {
        let mut meta = Meta::new("control");
        meta.set("seq", 3).set("path", "/a b/c").set("cut", "1").set("cut", "2");
        let good = meta.encode();
        let back = Meta::decode("control", &good).unwrap();
        assert_eq!(back, meta);
        assert_eq!(back.get::<String>("path").unwrap(), "/a b/c");
        assert_eq!(back.all::<u32>("cut").collect::<Vec<_>>(), [1, 2]);
        assert!(Meta::decode("state", &good).is_err());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A flipped bit in trailing white space is the one thing that says the same.
            if let Ok(read) = Meta::decode("control", &bad) {
                assert_eq!(read, meta, "bit {bit}");
            }
        }
        for len in 0..good.len() - 1 {
            assert!(Meta::decode("control", &good[..len]).is_err(), "length {len}");
        }
    }
}
