//! PostgreSQL: a primary and a streaming standby, both with `fsync` on.
//!
//! Streams are `COPY` in transactions of a batch, not waited for one by one; the last one is, until
//! the standby has replayed it. Single appends choose `synchronous_commit` by what they wait for.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use postgres::binary_copy::BinaryCopyInWriter;
use postgres::types::Type;
use postgres::{Client, NoTls, Statement};
use rustix::process::Signal;

use super::process::{Server, find, free_port};
use super::{Contestant, Level, Pair};
use crate::tables::{Key, Load, VALUE_BYTES};

/// Where Debian puts what is not for everybody's path, the newest first.
const PLACES: [&str; 3] =
    ["/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/15/bin"];
/// PostgreSQL does not run as root.
const AS_USER: [&str; 5] =
    ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"];
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
shared_buffers = '1GB'
max_wal_size = '16GB'
checkpoint_timeout = '1h'
wal_level = replica
wal_buffers = '64MB'
wal_sender_timeout = 0
synchronous_standby_names = 'standby'
autovacuum = off
";

pub(super) struct Postgres {
    /// Without, rows go to a heap that nobody can look up a key in, which flatters it.
    pub(super) primary_key: bool,
}

impl Contestant for Postgres {
    fn name(&self) -> &'static str {
        if self.primary_key { "postgres" } else { "postgres-no-key" }
    }

    fn missing(&self) -> Option<String> {
        let found = ["initdb", "pg_basebackup", "postgres"].map(|name| find(name, &PLACES));
        found.contains(&None).then(|| "PostgreSQL's server is not installed".into())
    }

    fn start(&self, dir: &Path) -> Result<Box<dyn Pair>> {
        open_to_others(dir)?;
        let (primary_dir, standby_dir) = (dir.join("primary"), dir.join("standby"));
        let (port, standby_port) = (free_port()?, free_port()?);
        let text = |path: &Path| path.display().to_string();
        as_user(dir, "initdb", &["-A", "trust", "-U", "bench", "-D", &text(&primary_dir)])?;
        let mut primary = run(dir, &primary_dir, port)?;
        let url = format!("host=127.0.0.1 port={port} user=bench dbname=postgres");
        let client = connect(&mut primary, &url)?;
        let source = format!("host=127.0.0.1 port={port} user=bench application_name=standby");
        let backup = ["-D", &text(&standby_dir), "-d", &source, "-R", "-X", "stream", "-c", "fast"];
        as_user(dir, "pg_basebackup", &backup)?;
        let standby = run(dir, &standby_dir, standby_port)?;
        let mut running =
            Running { client, insert: None, level: None, _servers: [standby, primary] };
        let [standby, _] = &mut running._servers;
        standby.wait_until("streams", || {
            let query = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'";
            Ok(!running.client.query(query, &[])?.is_empty())
        })?;
        let key = if self.primary_key { "PRIMARY KEY" } else { "NOT NULL" };
        let create = format!("CREATE TABLE records (key bytea {key}, value bytea NOT NULL)");
        running.client.batch_execute(&create)?;
        Ok(Box::new(running))
    }
}

/// What is the user's of this run becomes the servers', and they may come to it.
fn open_to_others(dir: &Path) -> Result<()> {
    for parent in [dir, dir.parent().unwrap_or(dir)] {
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
    }
    if rustix::process::geteuid().is_root() {
        let status = Command::new("chown").arg("postgres:").arg(dir).status()?;
        ensure!(status.success(), "expected that {} is given to postgres", dir.display());
    }
    Ok(())
}

/// `program` with what comes before it where it may not run as this user.
fn command(program: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let program = find(program, &PLACES).with_context(|| format!("find {program}"))?;
    let root = rustix::process::geteuid().is_root();
    let before = if root { &AS_USER[..] } else { &[] };
    let all = before.iter().copied().map(String::from);
    Ok(all
        .chain([program.display().to_string()])
        .chain(arguments.iter().map(|a| (*a).into()))
        .collect())
}

fn as_user(dir: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let command = command(program, arguments)?;
    let output = Command::new(&command[0]).args(&command[1..]).current_dir(dir).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {said}", output.status);
    Ok(())
}

fn run(dir: &Path, data: &Path, port: u16) -> Result<Server> {
    let config = data.join("postgresql.auto.conf");
    let mut text = fs::read_to_string(&config).unwrap_or_default();
    text.push_str(SETTINGS);
    fs::write(&config, text)?;
    let (data_text, port_text) = (data.display().to_string(), port.to_string());
    let command = command("postgres", &["-D", &data_text, "-p", &port_text])?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let name = data.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    Server::start(dir, &name, &command, Signal::QUIT, false)
}

fn connect(server: &mut Server, url: &str) -> Result<Client> {
    let mut client = None;
    server.wait_until("answers", || {
        client = Client::connect(url, NoTls).ok();
        Ok(client.is_some())
    })?;
    let mut client = client.context("connect")?;
    // Before there is a standby nobody can wait for it.
    client.batch_execute("SET synchronous_commit = local")?;
    Ok(client)
}

struct Running {
    client: Client,
    insert: Option<Statement>,
    /// What `synchronous_commit` was set for.
    level: Option<Level>,
    _servers: [Server; 2],
}

impl Running {
    fn wait_for(&mut self, level: Option<Level>) -> Result<()> {
        if self.level != level || level.is_none() {
            let setting = match level {
                None => "off",
                Some(Level::Alone) => "local",
                Some(Level::Copied) => "on",
                Some(Level::Shown) => "remote_apply",
            };
            self.client.batch_execute(&format!("SET synchronous_commit = {setting}"))?;
            self.level = level;
        }
        Ok(())
    }
}

impl Pair for Running {
    fn stream(&mut self, load: &Load, next: &mut dyn FnMut() -> Option<Range<u64>>) -> Result<()> {
        self.wait_for(None)?;
        while let Some(numbers) = next() {
            let sink = self.client.copy_in("COPY records FROM STDIN BINARY")?;
            let mut writer = BinaryCopyInWriter::new(sink, &[Type::BYTEA, Type::BYTEA]);
            for n in numbers {
                let (key, value) = load.upsert(n);
                writer.write(&[&&key[..], &&value[..]])?;
            }
            writer.finish()?;
        }
        // A transaction of its own, behind all others in the log.
        self.wait_for(Some(Level::Shown))?;
        self.client.batch_execute(
            "CREATE TABLE IF NOT EXISTS marks (at timestamptz); INSERT INTO marks VALUES (now())",
        )?;
        Ok(())
    }

    fn append(&mut self, key: &Key, value: &[u8; VALUE_BYTES], level: Level) -> Result<()> {
        self.wait_for(Some(level))?;
        if self.insert.is_none() {
            self.insert = Some(self.client.prepare("INSERT INTO records VALUES ($1, $2)")?);
        }
        let insert = self.insert.as_ref().context("a prepared statement")?;
        self.client.execute(insert, &[&&key[..], &&value[..]])?;
        Ok(())
    }
}
