//! A spell that is registered between a follower's look at the seat and its taking it: scenario 32.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tidelog::fs::Os;
use tidelog::replica::coordinator::fake::{FakeCluster, FakeCoordinator};
use tidelog::replica::coordinator::{Claim, Coordinator, Degraded, Lease, Member, Seat, Take};
use tidelog::replica::failover::Policy;
use tidelog::server::ServerOptions;
use tidelog::server::run::{Moment, RunOptions, run};
use tidelog::ship::{Http, Source};
use tidelog::table::TableOptions;
use tidelog::{Epoch, Id, LogByte, Result};

use super::*;

/// A seat whose last holder registers a spell just before it is taken.
#[derive(Debug)]
struct Late {
    seat: FakeCoordinator,
    taken: bool,
}

impl Coordinator for Late {
    fn place(&self) -> String {
        self.seat.place()
    }
    fn ttl(&self) -> Duration {
        self.seat.ttl()
    }
    fn look(&mut self) -> Result<Seat> {
        let epoch = Epoch { number: 1, nonce: 1 };
        let degraded = self.taken.then_some(Degraded { epoch, from: LogByte(100) });
        Ok(Seat { degraded, ..self.seat.look()? })
    }
    fn take(&mut self, claim: &Claim) -> Result<Take> {
        self.taken = true;
        self.seat.take(claim)
    }
    fn renew(&mut self) -> Result<Lease> {
        self.seat.renew()
    }
    fn hand_over(&mut self, to: &Claim) -> Result<Take> {
        self.seat.hand_over(to)
    }
    fn resign(&mut self) -> Result<()> {
        self.seat.resign()
    }
    fn degrade(&mut self, from: Option<LogByte>) -> Result<()> {
        self.seat.degrade(from)
    }
    fn pause(&mut self, paused: bool) -> Result<()> {
        self.seat.pause(paused)
    }
    fn join(&mut self, me: &Member) -> Result<()> {
        self.seat.join(me)
    }
    fn members(&mut self) -> Result<Vec<Member>> {
        self.seat.members()
    }
    fn claim_log(&mut self, log: Id) -> Result<Id> {
        self.seat.claim_log(log)
    }
}

#[test]
fn a_spell_registered_between_the_look_and_the_take_is_seen() {
    let mut nodes = two();
    nodes.set(0, "semi:k=1,timeout=5s");
    nodes.append_somewhere("a");
    waits_for("the follower has it", || nodes.status(1).unwrap()["applied"] == 1);
    nodes.kill(0);
    nodes.kill(1);
    let cluster = FakeCluster::new();
    let seat = cluster.connect(Id([1; 16]), Os::shared(), Duration::from_secs(600));
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = RunOptions {
        dir: nodes.path(1),
        log: Log::options(),
        table: TableOptions::default(),
        server: ServerOptions::default().listen(listen).bind().unwrap(),
        given: None,
        peers: Vec::new(),
        credentials: Credentials::default(),
        open: Arc::new(|address| {
            Ok(Box::new(Http::open(address, Credentials::default())?) as Box<dyn Source>)
        }),
        coordinator: Some(Box::new(Late { seat, taken: false })),
        policy: Policy::default(),
    };
    let (said, led) = (RefCell::new(Vec::new()), Cell::new(false));
    let until = Instant::now() + Duration::from_secs(30);
    let refused = || said.borrow().iter().any(|what: &String| what.contains("--max-loss"));
    let stop = || refused() || led.get() || Instant::now() > until;
    let ran = run(options, &stop, &mut |moment| match moment {
        Moment::Said(what) => said.borrow_mut().push(what),
        Moment::Serving(server) => led.set(led.get() || server.leader().is_some()),
        Moment::Serves(_) => {}
    });
    ran.unwrap();
    assert!(refused() && !led.get(), "{:?}", said.borrow());
    assert_eq!(cluster.seat().holder, None, "it let go of the seat");
}
