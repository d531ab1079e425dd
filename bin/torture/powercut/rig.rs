//! An ext4 of our own: an image, a loop device, a mount; and nothing of it left afterwards.
//!
//! Dropping it unmounts, frees the loop device and removes the directory, whether the run ended
//! well, by an error, a panic or Ctrl-C.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const IMAGE_BYTES: u64 = 96 << 20;

/// The file system and where it is.
pub struct Rig {
    dir: PathBuf,
    device: Option<String>,
    mounted: bool,
}

impl Rig {
    /// Why there can be none here, if so.
    pub fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("mounting needs root".to_owned());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("there are no loop devices: /dev/loop-control is missing".to_owned());
        }
        let knows = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !knows.lines().any(|line| line.trim() == "ext4") {
            return Some("this kernel has no ext4".to_owned());
        }
        for tool in ["mkfs.ext4", "losetup"] {
            if Command::new(tool).arg("-V").output().is_err() {
                return Some(format!("{tool} is not installed"));
            }
        }
        None
    }

    /// Makes and mounts it, in a directory of its own below `parent`.
    pub fn new(parent: &Path) -> Result<Self, String> {
        let dir = parent.join(format!("tidelog-powercut-{}", std::process::id()));
        let at = dir.join("mount");
        fs::create_dir_all(&at).map_err(|e| format!("cannot create {}: {e}", at.display()))?;
        let mut rig = Rig { dir, device: None, mounted: false };
        let image = rig.dir.join("image");
        File::create(&image)
            .and_then(|file| file.set_len(IMAGE_BYTES))
            .map_err(|e| format!("cannot make an image: {e}"))?;
        let image = image.display().to_string();
        command("mkfs.ext4", &["-q", "-F", "-b", "4096", "-J", "size=4", &image])?;
        let device = command("losetup", &["--find", "--show", &image])?;
        rig.device = Some(device.trim().to_owned());
        rig.mount()?;
        Ok(rig)
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.join("mount")
    }

    /// Mounts it; after a shutdown the journal is replayed.
    pub fn mount(&mut self) -> Result<(), String> {
        let device = self.device.as_deref().ok_or("there is no loop device")?;
        mount(device, self.root(), "ext4", MountFlags::empty(), None)
            .map_err(|e| format!("cannot mount {device}: {e}"))?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it; who still has a file open there is waited for.
    pub fn unmount(&mut self) -> Result<(), String> {
        for _ in 0..1000 {
            match unmount(self.root(), UnmountFlags::empty()) {
                Ok(()) => {
                    self.mounted = false;
                    return Ok(());
                }
                Err(rustix::io::Errno::BUSY) => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => return Err(format!("cannot unmount: {e}")),
            }
        }
        Err("cannot unmount: still in use after five seconds".to_owned())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            let _ = unmount(self.root(), UnmountFlags::DETACH);
        }
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn command(name: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(name).args(args).output().map_err(|e| format!("{name}: {e}"))?;
    if !out.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&out.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
