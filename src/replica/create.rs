//! A follower's directory that is not there yet: made from the log's beginning, or with a snapshot.
//!
//! Called by the follower when it opens. `LOG` comes last, so that a crash before it leaves nothing that
//! looks like a copy; where there is neither the whole log nor a snapshot, nothing is made.

use crate::error::{Error, Kind, Result};
use crate::fs::Open;
use crate::log::files::{BEGUN, Control, Layout, NodeFile};
use crate::log::{Options, open};
use crate::position::LogByte;
use crate::ship::{Report, Source};
use crate::table::{Beginning, RestoreAt, finished, prepare};

use super::bootstrap::{self, Begun, Bootstrap};

/// What a new copy begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    pub(super) policy: Beginning,
    /// What a snapshot may hold.
    pub(super) at: RestoreAt,
}

/// Makes the directory of a new copy: the leader's log id, a node id of its own; with a snapshot where
/// the log's beginning is gone, or costs more.
pub(super) fn create(
    options: &Options,
    layout: &Layout,
    source: &mut dyn Source,
    begin: Begin,
) -> Result<Option<Begun>> {
    let offer = source.look(&Report::default())?;
    let gone = offer.floor > LogByte(0);
    let wanted = match begin.policy {
        Beginning::Log => false,
        Beginning::Needed => gone,
        Beginning::Snapshot => true,
        Beginning::Cheaper => {
            // A source that cannot say has none, as far as that goes.
            gone || bootstrap::is_cheaper(&offer, |within| {
                source.snapshots_within(within).unwrap_or_default()
            })
        }
    };
    // Where there is none, nothing is made here.
    let offered = wanted
        && match source.snapshots() {
            Ok(offers) => !offers.is_empty(),
            Err(e) if !gone && bootstrap::another_may_do(e.kind()) => false,
            Err(e) => return Err(e),
        };
    if offered {
        let fs = &options.fs;
        let Some(_lock) = open::claim(&**fs, layout)? else { return Ok(None) };
        let bootstrap = Bootstrap {
            fs,
            layout,
            follows: source.place(),
            log: offer.log,
            copy: None,
            at: begin.at,
            anew: false,
        };
        match bootstrap.begin(source) {
            Ok(Some(begun)) => return Ok(Some(begun)),
            Ok(None) => {}
            // The whole log does as well.
            Err(e) if !gone && bootstrap::another_may_do(e.kind()) => {}
            Err(e) => return Err(e),
        }
    }
    if gone {
        return Err(Error::new(
            Kind::Gone,
            format!(
                "expected a log that starts at offset 0 at {}, found one that starts at offset {}: \
                 retention dropped what lies before",
                source.place(),
                offer.floor_offset
            ),
        )
        .in_file(&layout.root)
        .at_offset(0)
        .help(
            "a snapshot there would do (`tidelog snapshot create`), or a source that still holds it: a \
             table made from the rest would be wrong",
        ));
    }
    let fs = &*options.fs;
    // What an interrupted bootstrap left would be read as this copy's.
    let begun = fs.open(&layout.root.join(BEGUN), Open::Read).is_ok();
    if begun {
        prepare(fs, layout)?;
    }
    let before = match begun {
        true => bootstrap::before(fs, layout, offer.log)?,
        false => Control::default(),
    };
    let birth = open::Birth {
        id: Some(offer.log),
        follows: Some(source.place()),
        node: NodeFile::read(fs, layout).ok().flatten().filter(|_| begun).map(|node| node.id),
        lost_below: before.lost_below,
        gave_up: before.gave_up,
        ..open::Birth::default()
    };
    open::create(fs, layout, birth)?;
    if begun {
        finished(fs, layout);
    }
    Ok(None)
}
