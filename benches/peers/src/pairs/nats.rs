//! NATS JetStream: three servers, a stream with a copy on each.
//!
//! An acknowledgement means that two of the three have written it to the page cache: nobody syncs
//! before two minutes are over, and this version has no setting for it. So it is not durable, which
//! flatters it; and what is shown is what the stream holds, as there is no table.

use std::collections::VecDeque;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context};
use rustix::process::Signal;
use tokio::runtime::{Builder, Runtime};

use super::process::{Server, find, free_port};
use super::{Contestant, Level, Pair};
use crate::tables::{Key, Load, VALUE_BYTES};

const SERVERS: usize = 3;
/// Acknowledgements that may be missing before the next record is sent.
const WINDOW: usize = 4000;
/// A cluster takes seconds to agree on who leads.
const PATIENCE: Duration = Duration::from_secs(20);

/// A question that came before they did is not answered: it is asked again.
const TRY: Duration = Duration::from_secs(2);

pub(super) struct Nats;

impl Contestant for Nats {
    fn name(&self) -> &'static str {
        "nats-r3"
    }

    fn missing(&self) -> Option<String> {
        find("nats-server", &[]).is_none().then(|| "nats-server is not installed".into())
    }

    fn start(&self, dir: &Path) -> Result<Box<dyn Pair>> {
        let program = find("nats-server", &[]).context("find nats-server")?.display().to_string();
        let ports =
            (0..SERVERS).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<Vec<_>>>()?;
        let routes: Vec<_> =
            ports.iter().map(|(_, route)| format!("nats://127.0.0.1:{route}")).collect();
        let mut servers = Vec::new();
        for (n, (port, route)) in ports.iter().enumerate() {
            let home = dir.join(format!("node{n}"));
            fs::create_dir(&home)?;
            let config = format!(
                "listen: 127.0.0.1:{port}\nserver_name: node{n}\n\
                 jetstream {{ store_dir: {:?}, max_file_store: 20G, max_memory_store: 1G }}\n\
                 cluster {{ name: bench, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
                home,
                routes.join(", "),
            );
            fs::write(home.join("conf"), config)?;
            servers.push(Server::start(
                &home,
                "nats",
                &[&program, "-c", "conf"],
                Signal::KILL,
                false,
            )?);
        }
        for (server, (port, _)) in servers.iter_mut().zip(&ports) {
            server.wait_for_port(*port)?;
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let urls: Vec<_> =
            ports.iter().map(|(port, _)| format!("nats://127.0.0.1:{port}")).collect();
        let context = runtime.block_on(async {
            let client = async_nats::connect(urls).await?;
            let context = jetstream::ContextBuilder::new()
                .max_ack_inflight(2 * WINDOW)
                .timeout(TRY)
                .ack_timeout(PATIENCE)
                .build(client);
            let start = std::time::Instant::now();
            loop {
                match create(&context).await {
                    Ok(()) => break Ok(context),
                    // They are still looking for a leader.
                    Err(_) if start.elapsed() < PATIENCE => {
                        tokio::time::sleep(Duration::from_millis(200)).await
                    }
                    Err(error) => break Err(error),
                }
            }
        })?;
        Ok(Box::new(Running { runtime, context, _servers: servers }))
    }
}

async fn create(context: &Context) -> Result<()> {
    for (name, subject, num_replicas) in [("copied", "c.>", SERVERS), ("alone", "a.>", 1)] {
        let config = Config {
            name: name.into(),
            subjects: vec![subject.into()],
            storage: StorageType::File,
            num_replicas,
            ..Config::default()
        };
        context.get_or_create_stream(config).await?;
    }
    Ok(())
}

struct Running {
    runtime: Runtime,
    context: Context,
    _servers: Vec<Server>,
}

/// A subject of its own for each key, so that the latest record of a key can be asked for.
fn subject(stream: char, key: &Key) -> String {
    format!("{stream}.{:032x}", u128::from_be_bytes(*key))
}

impl Pair for Running {
    fn stream(&mut self, load: &Load, next: &mut dyn FnMut() -> Option<Range<u64>>) -> Result<()> {
        let context = &self.context;
        self.runtime.block_on(async {
            let mut waiting: VecDeque<PublishAckFuture> = VecDeque::with_capacity(WINDOW + 1);
            while let Some(numbers) = next() {
                for n in numbers {
                    let (key, value) = load.upsert(n);
                    let sent = context.publish(subject('c', &key), value.to_vec().into()).await?;
                    waiting.push_back(sent);
                    if waiting.len() > WINDOW
                        && let Some(oldest) = waiting.pop_front()
                    {
                        oldest.await?;
                    }
                }
            }
            for sent in waiting {
                sent.await?;
            }
            Ok(())
        })
    }

    fn append(&mut self, key: &Key, value: &[u8; VALUE_BYTES], level: Level) -> Result<()> {
        let stream = if level == Level::Alone { 'a' } else { 'c' };
        let context = &self.context;
        self.runtime.block_on(async {
            context.publish(subject(stream, key), value.to_vec().into()).await?.await?;
            Ok(())
        })
    }
}
