//! The calls: [`Fs`], [`File`] and [`Lock`] over the simulated disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use rustix::io::Errno;

use super::super::{File, Fs, Lock, Map, Open};
use super::Sim;
use super::disk::{Id, Synced, absolute};
use super::fault::Fault;
use super::op::OpKind;
use super::world::{Asked, World};

impl Sim {
    /// Every call but the clocks begins here.
    fn enter(&self, asked: Asked<'_>) -> io::Result<(MutexGuard<'_, World>, Option<Fault>)> {
        let mut world = self.world();
        let fault = world.enter(self.process, asked)?;
        Ok((world, fault))
    }

    /// The beginning of a call that only looks.
    fn look(&self, kind: OpKind, path: &Path) -> io::Result<MutexGuard<'_, World>> {
        match self.enter(Asked::new(kind, path))? {
            (_, Some(fault)) => Err(fault.error.into()),
            (world, None) => Ok(world),
        }
    }

    fn handle(&self, world: &mut World, id: Id, path: Arc<Path>, writes: bool) -> Arc<dyn File> {
        *world.handles.entry(id).or_default() += 1;
        Arc::new(SimFile { sim: self.clone(), id, path, writes })
    }
}

impl Fs for Sim {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let path: Arc<Path> = absolute(path)?.into();
        if how == Open::Create {
            let asked = Asked::new(OpKind::Create, &path);
            let (mut world, fault) = self.enter(asked)?;
            let operation = world.operations;
            let id = world.act(asked, fault, |world| world.disk.create(&path, operation))?;
            return Ok(self.handle(&mut world, id, path, true));
        }
        let mut world = self.look(OpKind::Open, &path)?;
        let id = world.disk.find_file(&path)?;
        Ok(self.handle(&mut world, id, path, how == Open::Write))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to): (Arc<Path>, Arc<Path>) = (absolute(from)?.into(), absolute(to)?.into());
        let asked = Asked { to: Some(&to), ..Asked::new(OpKind::Rename, &from) };
        let (mut world, fault) = self.enter(asked)?;
        let operation = world.operations;
        world.act(asked, fault, |world| world.disk.rename(&from, &to, operation))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to): (Arc<Path>, Arc<Path>) = (absolute(from)?.into(), absolute(to)?.into());
        let asked = Asked { to: Some(&to), ..Asked::new(OpKind::Rename, &from) };
        let (mut world, fault) = self.enter(asked)?;
        let operation = world.operations;
        world.act(asked, fault, |world| match world.disk.find(&to) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(_) => world.disk.rename(&from, &to, operation),
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let path: Arc<Path> = absolute(path)?.into();
        let asked = Asked::new(OpKind::Unlink, &path);
        let (mut world, fault) = self.enter(asked)?;
        let operation = world.operations;
        world.act(asked, fault, |world| world.disk.unlink(&path, operation))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path: Arc<Path> = absolute(path)?.into();
        let asked = Asked::new(OpKind::CreateDir, &path);
        {
            let world = self.world();
            world.alive(self.process)?;
            if world.disk.find(&path).is_ok_and(|id| world.disk.dir(id).is_ok()) {
                return Ok(());
            }
        }
        let (mut world, fault) = self.enter(asked)?;
        let operation = world.operations;
        world.act(asked, fault, |world| world.disk.create_dir(&path, operation).map(drop))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let world = self.look(OpKind::List, &absolute(path)?)?;
        let id = world.disk.find(path)?;
        Ok(world.disk.dir(id)?.now.keys().cloned().collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = absolute(path)?;
        let asked = Asked::new(OpKind::SyncDir, &path);
        let (mut world, fault) = self.enter(asked)?;
        let id = world.disk.find(&path)?;
        world.disk.dir(id)?;
        if fault.as_ref().is_some_and(|fault| !fault.landed) {
            world.disk.sync_dir(id, Synced::Dropped);
        }
        world.act(asked, fault, |world| {
            world.disk.sync_dir(id, Synced::Durable);
            world.sweep();
            Ok(())
        })
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn Lock>>> {
        let mut world = self.look(OpKind::Lock, &absolute(path)?)?;
        let id = world.disk.find(path)?;
        let lock = world.locks.take(id, exclusive, self.process);
        Ok(lock.map(|lock| Box::new(SimLock { sim: self.clone(), lock }) as Box<dyn Lock>))
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let world = self.world();
        world.alive(self.process)?;
        world.disk.find(path)?;
        Ok(absolute(path)?.into_owned())
    }

    /// Its disk is as large as the memory that it takes.
    fn capacity(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn machine(&self) -> io::Result<String> {
        Ok("sim".to_owned())
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut world = self.world();
        world.alive(self.process)?;
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&world.random.next().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }

    fn now(&self) -> i64 {
        self.world().clock.now()
    }

    fn now_coarse(&self) -> i64 {
        self.now()
    }

    fn elapsed(&self) -> u64 {
        self.world().clock.elapsed()
    }
}

/// An open file of the simulated disk.
struct SimFile {
    sim: Sim,
    id: Id,
    path: Arc<Path>,
    writes: bool,
}

impl SimFile {
    /// Nobody may change a file that was mapped: on a real disk a reader would see bytes change
    /// under a `&[u8]`, or die of SIGBUS. It is an error of the engine, not of the disk.
    fn assert_unmapped(&self, world: &World, what: &str) {
        assert!(
            !world.maps.contains_key(&self.id),
            "{}: {what} a file that was mapped before",
            self.path.display()
        );
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], byte: u64) -> io::Result<usize> {
        let (world, fault) = self.sim.enter(Asked::new(OpKind::Read, &self.path))?;
        let len = match fault {
            None => buf.len(),
            Some(Fault { short: Some(short), .. }) => short.min(buf.len()),
            Some(fault) => return Err(fault.error.into()),
        };
        Ok(world.disk.file(self.id)?.now.read_at(&mut buf[..len], byte))
    }

    fn write_at(&self, buf: &[u8], byte: u64) -> io::Result<usize> {
        let asked = Asked { byte, ..Asked::new(OpKind::Write, &self.path) };
        let (mut world, fault) = self.sim.enter(asked)?;
        if !self.writes {
            return Err(Errno::BADF.into());
        }
        self.assert_unmapped(&world, "writes");
        let (most, fault) = match fault {
            Some(Fault { short: Some(short), .. }) => (short.min(buf.len()), None),
            fault => (buf.len(), fault),
        };
        let len = world.room(self.id, byte, most as u64)?;
        let bytes = usize::try_from(len).map_or(buf, |len| &buf[..len]);
        if bytes.is_empty() && fault.is_none() {
            return Ok(0);
        }
        let operation = world.operations;
        world.act(Asked { len, ..asked }, fault, |world| {
            world.disk.write(self.id, &self.path, bytes, byte, operation)?;
            Ok(bytes.len())
        })
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.sim.world();
        world.alive(self.sim.process)?;
        Ok(world.disk.file(self.id)?.now.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let asked = Asked { len, ..Asked::new(OpKind::SetLen, &self.path) };
        let (mut world, fault) = self.sim.enter(asked)?;
        if !self.writes {
            return Err(Errno::INVAL.into());
        }
        self.assert_unmapped(&world, "sets the length of");
        if world.room(self.id, 0, len)? < len {
            return Err(Errno::NOSPC.into());
        }
        let operation = world.operations;
        world.act(asked, fault, |world| world.disk.set_len(self.id, &self.path, len, operation))
    }

    fn sync_data(&self) -> io::Result<()> {
        let asked = Asked::new(OpKind::Sync, &self.path);
        let (mut world, fault) = self.sim.enter(asked)?;
        if fault.as_ref().is_some_and(|fault| !fault.landed) {
            world.disk.sync_file(self.id, Synced::Dropped);
        }
        world.act(asked, fault, |world| {
            world.disk.sync_file(self.id, Synced::Durable);
            Ok(())
        })
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        let mut world = self.sim.look(OpKind::Map, &self.path)?;
        let content = &world.disk.file(self.id)?.now;
        assert!(
            len <= content.len(),
            "{}: maps {len} bytes of {}: reading the rest would be SIGBUS",
            self.path.display(),
            content.len()
        );
        let map = content.map(len);
        world.maps.entry(self.id).or_default().insert(self.sim.process);
        Ok(map)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut world = self.sim.world();
        if let Some(handles) = world.handles.get_mut(&self.id) {
            *handles -= 1;
            if *handles == 0 {
                world.handles.remove(&self.id);
            }
        }
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path.display())
    }
}

struct SimLock {
    sim: Sim,
    lock: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.sim.world().locks.release(self.lock);
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimLock({})", self.lock)
    }
}
