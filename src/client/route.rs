//! Whom to ask next: a state machine without I/O.
//!
//! Driven by `Cluster`, which tells it what became of each question. A search goes in rounds: whoever is
//! believed to lead first, then the others, those that answered lately before those that did not; nobody
//! twice in a round, whatever redirects say. Between rounds it rests. Invariants:
//! - listed nodes are never forgotten; learned ones are, once they stay dead; there are at most [`MOST`];
//! - a circle of redirects ends with its round.

use std::time::Duration;

use super::trust::Trust;

/// Nodes known at a time.
const MOST: usize = 64;
/// A learned node that did not answer so often in a row is forgotten.
const FORGET: u32 = 5;
/// The first rest between rounds, and the longest.
const REST: Duration = Duration::from_millis(20);
const LONGEST_REST: Duration = Duration::from_millis(640);

/// A node.
#[derive(Debug)]
struct Known {
    url: String,
    listed: bool,
    /// Questions in a row that it left unanswered.
    failures: u32,
    asked: bool,
}

/// The nodes, and how far the search is.
#[derive(Debug)]
pub(super) struct Route {
    trust: Trust,
    nodes: Vec<Known>,
    /// Who is believed to lead.
    leader: Option<String>,
    rest: Duration,
    /// Why an address that was named is not asked; the last one.
    refused: Option<String>,
}

impl Route {
    pub(super) fn new(trust: Trust) -> Self {
        let known = |url| Known { url, listed: true, failures: 0, asked: false };
        let nodes = trust.listed().into_iter().map(known).collect();
        Route { trust, nodes, leader: None, rest: REST, refused: None }
    }

    /// A new question: nobody was asked.
    pub(super) fn begin(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.asked = false);
        self.rest = REST;
        self.refused = None;
    }

    /// The node to ask now; `None` when the round is over.
    pub(super) fn next(&mut self) -> Option<String> {
        let leader = self.leader.clone();
        let open = self.nodes.iter_mut().filter(|node| !node.asked);
        let node = open.min_by_key(|node| (leader.as_ref() != Some(&node.url), node.failures))?;
        node.asked = true;
        Some(node.url.clone())
    }

    /// Begins the next round; how long to rest before.
    pub(super) fn round(&mut self) -> Duration {
        self.nodes.iter_mut().for_each(|node| node.asked = false);
        let rest = self.rest;
        self.rest = (2 * rest).min(LONGEST_REST);
        rest
    }

    /// It answered as a leader does.
    pub(super) fn leads(&mut self, url: &str) {
        self.answered(url);
        self.leader = Some(url.to_owned());
        self.rest = REST;
    }

    /// It answered, and does not lead; perhaps it says who does.
    pub(super) fn follows(&mut self, url: &str, leader: Option<&str>) {
        self.answered(url);
        if self.leader.as_deref() == Some(url) {
            self.leader = None;
        }
        // Who names itself and does not lead says nothing.
        let named = leader.and_then(|leader| self.learn(url, leader)).filter(|named| named != url);
        if let Some(named) = named {
            self.leader = Some(named);
        }
    }

    /// It answered, whatever that was.
    pub(super) fn answered(&mut self, url: &str) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.url == url) {
            node.failures = 0;
        }
    }

    /// It did not answer, or not as this cluster's node.
    pub(super) fn dead(&mut self, url: &str) {
        if self.leader.as_deref() == Some(url) {
            self.leader = None;
        }
        if let Some(node) = self.nodes.iter_mut().find(|node| node.url == url) {
            node.failures += 1;
        }
        self.nodes.retain(|node| node.listed || node.failures < FORGET);
    }

    /// A node names another one: how that is asked, if it may be.
    pub(super) fn learn(&mut self, named_by: &str, address: &str) -> Option<String> {
        let url = match self.trust.admit(named_by, address) {
            Ok(url) => url,
            Err(why) => {
                self.refused = Some(why);
                return None;
            }
        };
        if self.nodes.iter().all(|node| node.url != url) {
            if self.nodes.len() >= MOST {
                return None;
            }
            self.nodes.push(Known { url: url.clone(), listed: false, failures: 0, asked: false });
        }
        Some(url)
    }

    /// Who is believed to lead.
    pub(super) fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    /// Why an address was not asked.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Everybody known: those that answered lately first.
    pub(super) fn known(&self) -> Vec<String> {
        let mut nodes: Vec<&Known> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| node.failures);
        nodes.into_iter().map(|node| node.url.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(list: &[&str]) -> Route {
        Route::new(Trust::new(list.iter().copied(), false).unwrap())
    }

    fn round(route: &mut Route) -> Vec<String> {
        std::iter::from_fn(|| route.next()).collect()
    }

    #[test]
    fn a_circle_of_redirects_asks_each_node_once_a_round() {
        let mut route = route(&["http://a:1", "http://b:1"]);
        for _ in 0..3 {
            assert_eq!(route.next().as_deref(), Some("http://a:1"));
            route.follows("http://a:1", Some("http://b:1"));
            assert_eq!(route.next().as_deref(), Some("http://b:1"));
            route.follows("http://b:1", Some("http://a:1"));
            assert_eq!(route.next(), None);
            route.round();
        }
        // Who names itself is not asked again for that.
        route.begin();
        route.follows("http://a:1", Some("http://a:1"));
        route.leads("http://b:1");
        assert_eq!(round(&mut route), ["http://b:1", "http://a:1"]);
    }

    #[test]
    fn the_leader_is_asked_first_and_the_dead_last() {
        let mut route = route(&["http://a:1", "http://b:1", "http://c:1"]);
        route.dead("http://a:1");
        route.leads("http://c:1");
        assert_eq!(round(&mut route), ["http://c:1", "http://b:1", "http://a:1"]);
        route.begin();
        route.dead("http://c:1");
        route.dead("http://c:1");
        assert_eq!(round(&mut route), ["http://b:1", "http://a:1", "http://c:1"]);
        assert_eq!(route.leader(), None);
        route.answered("http://c:1");
        assert_eq!(route.known(), ["http://b:1", "http://c:1", "http://a:1"]);
    }

    #[test]
    fn learned_nodes_are_bounded_and_forgotten_when_they_stay_dead() {
        let mut route = route(&["http://a:1"]);
        for port in 0..200 {
            route.learn("http://a:1", &format!("http://n:{port}"));
        }
        assert_eq!(route.known().len(), MOST);
        for _ in 0..FORGET {
            route.dead("http://a:1");
            route.dead("http://n:7");
        }
        let known = route.known();
        assert!(!known.contains(&"http://n:7".into()) && known.contains(&"http://a:1".into()));
        assert!(route.learn("http://a:1", "gopher://n:7").is_none());
        assert!(route.refused().unwrap().contains("no node's address"));
    }

    #[test]
    fn rests_grow_to_a_limit_and_begin_anew_with_each_question() {
        let mut route = route(&["http://a:1"]);
        let rests: Vec<Duration> = (0..8).map(|_| route.round()).collect();
        assert_eq!((rests[0], rests[1], rests[7]), (REST, 2 * REST, LONGEST_REST));
        route.begin();
        assert_eq!(route.round(), REST);
    }
}
