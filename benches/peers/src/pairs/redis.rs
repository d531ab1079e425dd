//! Redis: a primary and a replica, every write synced by both before it is answered.
//!
//! `WAIT` counts replicas that have taken a write in. With `appendfsync always` the replica syncs
//! before it answers anybody, its primary too, so what is counted is on its disk.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use redis::{Client, Connection, cmd, pipe};
use rustix::process::Signal;

use super::process::{Server, find, free_port};
use super::{Contestant, Level, Pair};
use crate::tables::{Key, Load, VALUE_BYTES};

pub(super) struct Redis;

impl Contestant for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn missing(&self) -> Option<String> {
        find("redis-server", &[]).is_none().then(|| "redis-server is not installed".into())
    }

    fn start(&self, dir: &Path) -> Result<Box<dyn Pair>> {
        let port = free_port()?;
        let primary = run(dir, "primary", port, &[])?;
        let of = port.to_string();
        let mut replica = run(dir, "replica", free_port()?, &["--replicaof", "127.0.0.1", &of])?;
        let mut connection = Client::open(("127.0.0.1", port))?.get_connection()?;
        replica.wait_until("follows", || {
            let info: String = cmd("INFO").arg("replication").query(&mut connection)?;
            Ok(info.contains("state=online"))
        })?;
        Ok(Box::new(Running { connection, _servers: [replica, primary] }))
    }
}

fn run(dir: &Path, name: &str, port: u16, more: &[&str]) -> Result<Server> {
    let home = dir.join(name);
    std::fs::create_dir(&home)?;
    let program = find("redis-server", &[]).context("find redis-server")?;
    let (program, port_text) = (program.display().to_string(), port.to_string());
    let mut command = vec![&*program, "--port", &port_text, "--bind", "127.0.0.1"];
    // Nothing but the log of writes, which is never rewritten; a replica may lag as far as it likes.
    command.extend(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    command.extend(["--auto-aof-rewrite-percentage", "0", "--repl-diskless-sync-delay", "0"]);
    command.extend(["--client-output-buffer-limit", "replica 0 0 0"]);
    command.extend(more);
    let mut server = Server::start(&home, name, &command, Signal::KILL, false)?;
    server.wait_for_port(port)?;
    Ok(server)
}

struct Running {
    connection: Connection,
    _servers: [Server; 2],
}

impl Pair for Running {
    fn stream(&mut self, load: &Load, next: &mut dyn FnMut() -> Option<Range<u64>>) -> Result<()> {
        while let Some(numbers) = next() {
            let mut batch = pipe();
            for n in numbers {
                let (key, value) = load.upsert(n);
                batch.cmd("SET").arg(&key[..]).arg(&value[..]).ignore();
            }
            batch.exec(&mut self.connection)?;
        }
        let copies: u32 = cmd("WAIT").arg(1).arg(0).query(&mut self.connection)?;
        ensure!(copies == 1, "expected 1 copy, found {copies}");
        Ok(())
    }

    fn append(&mut self, key: &Key, value: &[u8; VALUE_BYTES], level: Level) -> Result<()> {
        let mut both = pipe();
        both.cmd("SET").arg(&key[..]).arg(&value[..]).ignore();
        if level == Level::Alone {
            return Ok(both.exec(&mut self.connection)?);
        }
        both.cmd("WAIT").arg(1).arg(0);
        let (copies,): (u32,) = both.query(&mut self.connection)?;
        ensure!(copies == 1, "expected 1 copy, found {copies}");
        Ok(())
    }
}
