//! Settings: flag, then `TIDELOG_*`, then `tidelog.toml` in the log's directory, then the user's
//! own file. `config show --origin` says where each one comes from.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use tidelog::{Compression, Durability, Log, Options, Preallocate};

use crate::exit::{Failure, Outcome};
use crate::output::{self, Format};

/// What can be set, with its default and what it means.
const SETTINGS: [(&str, &str, &str); 6] = [
    ("durability", "durable", "what an append waits for: buffered, written, durable"),
    ("segment_bytes", "64MiB", "target size of a segment file"),
    ("compression", "none", "of batches: none, lz4, zstd"),
    ("preallocate", "auto", "zeros ahead of the frames: auto, zero, grow"),
    ("batch", "1000", "records to a batch when ingesting"),
    ("output", "auto", "how verbs print: auto, table, ndjson, json, csv, raw"),
];

/// What an append waits for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// In memory; lost with the process
    Buffered,
    /// In the page cache; survives the process
    Written,
    /// Synced; survives a power cut
    Durable,
}

impl From<DurabilityArg> for Durability {
    fn from(arg: DurabilityArg) -> Self {
        match arg {
            DurabilityArg::Buffered => Durability::Buffered,
            DurabilityArg::Written => Durability::Written,
            DurabilityArg::Durable => Durability::Durable,
        }
    }
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CompressionArg {
    None,
    Lz4,
    Zstd,
}

impl From<CompressionArg> for Compression {
    fn from(arg: CompressionArg) -> Self {
        match arg {
            CompressionArg::None => Compression::None,
            CompressionArg::Lz4 => Compression::Lz4,
            CompressionArg::Zstd => Compression::Zstd,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PreallocateArg {
    Auto,
    Zero,
    Grow,
}

/// The settings that hold for one log directory.
pub(crate) struct Config {
    layers: Vec<(String, toml::Table)>,
}

impl Config {
    /// Reads the files that there are.
    pub(crate) fn load(dir: Option<&Path>) -> Result<Self, Failure> {
        let mut layers = Vec::new();
        let files = dir.map(|dir| dir.join("tidelog.toml")).into_iter().chain(user_file());
        for path in files {
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => continue,
                Err(e) => return Err(Failure::io(&format!("read {}", path.display()), &e)),
            };
            let table: toml::Table =
                text.parse().map_err(|e| Failure::usage(format!("in {}: {e}", path.display())))?;
            if let Some(unknown) =
                table.keys().find(|key| !SETTINGS.iter().any(|(name, ..)| name == key))
            {
                let known: Vec<&str> = SETTINGS.iter().map(|(name, ..)| *name).collect();
                return Err(Failure::usage(format!(
                    "in {}: expected one of {}, found {unknown:?}",
                    path.display(),
                    known.join(", ")
                )));
            }
            layers.push((path.display().to_string(), table));
        }
        Ok(Config { layers })
    }

    /// The value of a setting that no flag gives, and where it comes from.
    fn find(&self, name: &str) -> (String, String) {
        let variable = format!("TIDELOG_{}", name.to_ascii_uppercase());
        if let Ok(value) = std::env::var(&variable) {
            return (value, variable);
        }
        for (origin, table) in &self.layers {
            if let Some(value) = table.get(name) {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                return (text, origin.clone());
            }
        }
        let default = SETTINGS.iter().find(|(known, ..)| *known == name);
        (default.expect("a setting").1.to_owned(), "default".to_owned())
    }

    fn value<T: ValueEnum>(&self, name: &str) -> Result<T, Failure> {
        let (text, origin) = self.find(name);
        T::from_str(&text, true).map_err(|_| {
            let choices: Vec<String> = T::value_variants()
                .iter()
                .filter_map(|v| v.to_possible_value())
                .map(|v| v.get_name().to_owned())
                .collect();
            Failure::usage(format!(
                "{origin}: expected {name} to be one of {}, found {text:?}",
                choices.join(", ")
            ))
        })
    }

    pub(crate) fn durability(&self, flag: Option<DurabilityArg>) -> Result<Durability, Failure> {
        flag.map_or_else(|| self.value("durability"), Ok).map(Durability::from)
    }

    pub(crate) fn batch(&self, flag: Option<usize>) -> Result<usize, Failure> {
        let (text, origin) = self.find("batch");
        let batch = match flag {
            Some(batch) => batch,
            None => text.parse().map_err(|_| {
                Failure::usage(format!("{origin}: expected batch to be a number, found {text:?}"))
            })?,
        };
        if !(1..=65_535).contains(&batch) {
            return Err(Failure::usage(format!("expected a batch of 1 to 65535, found {batch}")));
        }
        Ok(batch)
    }

    /// How to print.
    pub(crate) fn format(&self, flag: Option<Format>) -> Result<Format, Failure> {
        match flag {
            Some(format) => Ok(format),
            None if self.find("output").0 == "auto" => Ok(output::default_format()),
            None => self.value("output"),
        }
    }

    /// Options to open a log with.
    pub(crate) fn options(
        &self,
        segment_bytes: Option<u64>,
        compression: Option<CompressionArg>,
    ) -> Result<Options, Failure> {
        let (text, origin) = self.find("segment_bytes");
        let segment_bytes = match segment_bytes {
            Some(bytes) => bytes,
            None => tidelog::text::parse_bytes(&text)
                .map_err(|e| Failure::usage(format!("{origin}: segment_bytes: {e}")))?,
        };
        let compression = compression.map_or_else(|| self.value("compression"), Ok)?;
        let preallocate = match self.value("preallocate")? {
            PreallocateArg::Auto => Preallocate::Auto,
            PreallocateArg::Zero => Preallocate::Zero,
            PreallocateArg::Grow => Preallocate::Grow,
        };
        Ok(Log::options()
            .segment_bytes(segment_bytes)
            .compression(compression.into())
            .preallocate(preallocate))
    }

    /// `config show`.
    pub(crate) fn show(&self, origin: bool, output: Option<Format>) -> Outcome {
        let rows: Vec<_> = SETTINGS
            .iter()
            .map(|(name, _, meaning)| {
                let (value, from) = self.find(name);
                let mut row = serde_json::Map::new();
                row.insert("setting".into(), (*name).into());
                row.insert("value".into(), value.into());
                if origin {
                    row.insert("origin".into(), from.into());
                }
                row.insert("meaning".into(), (*meaning).into());
                row
            })
            .collect();
        output::print_rows(self.format(output)?, &rows)
    }
}

fn user_file() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(base.join("tidelog/config.toml"))
}
