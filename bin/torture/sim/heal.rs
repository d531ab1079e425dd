//! The end of a run: everything heals, and then everybody must get on.
//!
//! Liveness, with a bound: in so many rounds every follower has all, everything that was sent is
//! acknowledged or can be sent, and the leader takes appends. Then all is held against all.

use std::time::Duration;

use tidelog::replica::Level;

use super::world::{Done, World};

/// Rounds in which everybody must have caught up: each copies megabytes.
const ROUNDS: u64 = 60;

impl World {
    /// Heals everything, waits, and compares.
    pub fn finish(&mut self) -> Done {
        self.heal_disks();
        self.setup.shaky_store = 0;
        {
            let mut net = self.net();
            net.per_mille = 0;
            net.ways.iter_mut().for_each(|way| (way.deaf, way.mute) = (false, false));
        }
        if let Some(fake) = &self.store {
            fake.settle();
        }
        // Connections to a store that failed are not used again.
        self.close_leader()?;
        (0..self.mates.len()).try_for_each(|who| self.close_follower(who))?;
        let first = self.step;
        let mut sent = None;
        for round in 0..ROUNDS {
            self.step = first + round;
            self.wait(Duration::from_millis(7));
            self.start_leader()?;
            self.publish()?;
            for who in 0..self.mates.len() {
                self.start_follower(who)?;
                self.follow(who)?;
            }
            self.watch()?;
            if round > 10 && sent.is_none() {
                sent = self.send_one()?;
            }
            if sent.is_some_and(|number| !self.book.sent[number].open) && self.is_calm() {
                return self.all_alike();
            }
        }
        Err(format!("after {ROUNDS} rounds without trouble: {}", self.standing()))
    }

    /// Sends one more batch; `None` if it is not taken yet.
    fn send_one(&mut self) -> Result<Option<usize>, String> {
        let mut dice = self.dice.clone();
        let number = self.book.send(9, &mut dice, 100);
        let Some(up) = &mut self.lead.up else { return Ok(None) };
        let sent = &self.book.sent[number];
        match up.leader.begin(&sent.batch(), &sent.how(), Some(Level::Replicated(1))) {
            Ok(Ok(waiting)) => {
                up.pending.push((number, waiting, u64::MAX / 2));
                Ok(Some(number))
            }
            Ok(Err(_)) => {
                self.book.sent[number].open = false;
                Ok(None)
            }
            Err(error) => Err(format!("an append when all is well: {error}")),
        }
    }

    /// Whether everybody has everything.
    fn is_calm(&self) -> bool {
        let Some(up) = &self.lead.up else { return false };
        let end = up.log.durable_end();
        let standing = up.leader.standing();
        let mates = self.mates.iter().all(|mate| {
            mate.follower.as_ref().is_some_and(|follower| {
                follower.end() == end
                    && follower.table().applied().is_none_or(|at| at.offset == end)
            })
        });
        mates && up.log.end() == end && standing.started && !standing.changing
    }

    fn standing(&self) -> String {
        let Some(up) = &self.lead.up else { return "no leader".into() };
        let ends: Vec<_> = self
            .mates
            .iter()
            .map(|mate| {
                mate.follower.as_ref().map(|follower| (follower.end().0, follower.log().end().0))
            })
            .collect();
        format!(
            "the leader has {}, followers {ends:?}; {:?}",
            up.log.durable_end(),
            up.leader.standing()
        )
    }

    fn all_alike(&mut self) -> Done {
        self.check_log()?;
        self.check_archive(true)?;
        let leader = self.lead.up.as_ref().expect("it is up");
        let digest = |log: &tidelog::Log| {
            tidelog::Table::from_log(log)
                .and_then(|table| table.digest())
                .map_err(|e| e.to_string())
        };
        let whole = leader.log.start().0 == 0;
        let expected = match whole {
            true => Some(digest(&leader.log)?),
            false => None,
        };
        for who in 0..self.mates.len() {
            self.same_files(who)?;
            self.check_table(who)?;
            let follower = self.mates[who].follower.as_ref().expect("it has caught up");
            let found = follower.table().digest().map_err(|e| e.to_string())?;
            if expected.is_some_and(|expected| expected != found) {
                return Err(format!("follower {who}: another digest than the leader's"));
            }
        }
        self.stats
            .add("records_at_end", self.lead.up.as_ref().expect("it is up").log.durable_end().0);
        self.stats.state = self.mates.iter().fold(self.lead.sim.durable_hash(), |sum, mate| {
            sum.rotate_left(7) ^ mate.sim.durable_hash()
        });
        Ok(())
    }
}
