//! A proxy that misbehaves as it is told: late, cut off, altered, one-way.
//!
//! Between real processes in `chaos`, before a real store in `fence`, and in the integration tests,
//! which include this file. Invariant: unless it is closed, what is asked always arrives; only answers suffer,
//! so whoever asked cannot know what became of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to what the server answers. Bytes are counted in each connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Each chunk is this late.
    pub(crate) delay: Duration,
    /// The connection ends after so many bytes.
    pub(crate) cut_after: Option<u64>,
    /// This byte has a bit flipped.
    pub(crate) flip_at: Option<u64>,
    /// Answers are swallowed.
    pub(crate) one_way: bool,
    /// Nothing arrives either: connections end as they are made.
    pub(crate) closed: bool,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    faults: Mutex<Faults>,
    /// So many answers, from now on, are lost with their connections.
    lose: AtomicU64,
    /// Answered bytes, over all connections.
    passed: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
}

/// The proxy; it ends when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            faults: Mutex::default(),
            lose: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            connections: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let inside = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            let mut pumps: Vec<JoinHandle<()>> = Vec::new();
            for client in listener.incoming() {
                if inside.stop.load(SeqCst) {
                    break;
                }
                let Ok(client) = client else { continue };
                if inside.faults.lock().unwrap().closed {
                    continue;
                }
                let target = *inside.target.lock().unwrap();
                // A leader that is away: the client sees its connection end.
                let Ok(server) = TcpStream::connect(target) else { continue };
                let mut kept = inside.connections.lock().unwrap();
                kept.push(client.try_clone().unwrap());
                kept.push(server.try_clone().unwrap());
                drop(kept);
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                pumps.push(std::thread::spawn(move || ask(from, to)));
                let inside = Arc::clone(&inside);
                pumps.push(std::thread::spawn(move || answer(server, client, &inside)));
                pumps.retain(|pump| !pump.is_finished());
            }
            for pump in pumps {
                let _ = pump.join();
            }
        });
        Proxy { address, shared, accepting: Some(accepting) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections lead.
    pub(crate) fn target(&self) -> SocketAddr {
        *self.shared.target.lock().unwrap()
    }

    /// Where connections lead from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
        self.cut();
    }

    /// Sets what goes wrong in connections from now on; those there are end.
    pub(crate) fn set(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap() = faults;
        self.cut();
    }

    /// The next so many answers are lost, each with its connection. Those there are stay.
    pub(crate) fn lose(&self, answers: u64) {
        self.shared.lose.store(answers, SeqCst);
    }

    /// Bytes that were answered so far.
    pub(crate) fn passed(&self) -> u64 {
        self.shared.passed.load(SeqCst)
    }

    fn cut(&self) {
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        self.cut();
        let _ = self.accepting.take().unwrap().join();
    }
}

fn ask(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn answer(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let faults = shared.faults.lock().unwrap().clone();
    let mut at = 0u64;
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !faults.delay.is_zero() {
            std::thread::sleep(faults.delay);
        }
        if faults.one_way {
            continue;
        }
        if shared.lose.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            break;
        }
        let mut bytes = &mut buffer[..read];
        if let Some(flip) = faults.flip_at.and_then(|byte| byte.checked_sub(at))
            && let Some(byte) = bytes.get_mut(usize::try_from(flip).unwrap_or(usize::MAX))
        {
            *byte ^= 0x04;
        }
        let left = faults.cut_after.map_or(u64::MAX, |cut| cut.saturating_sub(at));
        if left < read as u64 {
            bytes = &mut bytes[..usize::try_from(left).expect("less than was read")];
        }
        at += bytes.len() as u64;
        shared.passed.fetch_add(bytes.len() as u64, SeqCst);
        if to.write_all(bytes).is_err() || left <= read as u64 {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
