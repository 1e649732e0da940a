//! Files: creation in one step, the writer's lock, and the checks that do not depend on the layout.

use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::Refusal;
use crate::layout::{FILE_HEADER_BYTES, FileHeader, HEADER_BYTES, MAGIC, PAGE, VERSION};

/// Readers are of the file's group.
const FILE_MODE: u32 = 0o640;

pub(crate) fn failed(action: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |source| Refusal::Io { action, source }
}

/// Opens without following a symbolic link at `path`.
pub(crate) fn open(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
}

/// A file with all its memory, header and writer's lock, which nobody else can see yet.
pub(crate) fn create_unnamed(path: &Path, header: &FileHeader) -> Result<File, Refusal> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
        .open(directory)
        .map_err(failed("create it"))?;
    allocate(&file, HEADER_BYTES + header.ring_bytes).map_err(failed("get memory for it"))?;
    file.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(failed("set its permissions"))?;
    file.write_all(&header.to_bytes()).map_err(failed("write its header"))?;
    lock(&file)?;
    Ok(file)
}

/// All memory now: a full `/dev/shm` must be an error here, not a fault at some packet.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: a plain system call on a descriptor that we own.
    #[allow(unsafe_code)]
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Gives an unnamed file its name; fails if the name exists.
pub(crate) fn name(file: &File, path: &Path) -> io::Result<()> {
    let source = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(io::Error::other)?;
    let target = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: both paths are valid C strings for the call.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            source.as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn lock_request(kind: i32, range: &Range<u64>) -> libc::flock {
    // SAFETY: flock is a plain C structure for which all zeroes is a valid value.
    #[allow(unsafe_code)]
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    request.l_start = range.start as libc::off_t;
    request.l_len = (range.end - range.start) as libc::off_t;
    request
}

fn control_lock(file: &File, command: i32, request: &mut libc::flock) -> io::Result<()> {
    // SAFETY: `request` is valid for the call.
    #[allow(unsafe_code)]
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(request)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the writer locks.
const WRITERS: Range<u64> = 0..HEADER_BYTES;

/// The writer's lock: of the open file, so that the kernel releases it however the writer ends.
pub(crate) fn lock(file: &File) -> Result<(), Refusal> {
    match control_lock(file, libc::F_OFD_SETLK, &mut lock_request(libc::F_WRLCK, &WRITERS)) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Err(Refusal::InUse)
        }
        Err(error) => Err(failed("lock it")(error)),
    }
}

/// Somebody has the writer's lock.
pub(crate) fn is_locked(file: &File) -> bool {
    let mut request = lock_request(libc::F_RDLCK, &WRITERS);
    let asked = control_lock(file, libc::F_OFD_GETLK, &mut request);
    asked.is_ok() && request.l_type != libc::F_UNLCK as libc::c_short
}

/// Locks one byte, together with others.
pub(crate) fn lock_shared(file: &File, at: u64) -> io::Result<()> {
    control_lock(file, libc::F_OFD_SETLK, &mut lock_request(libc::F_RDLCK, &(at..at + 1)))
}

pub(crate) fn unlock(file: &File, at: u64) -> io::Result<()> {
    control_lock(file, libc::F_OFD_SETLK, &mut lock_request(libc::F_UNLCK, &(at..at + 1)))
}

/// A byte in `range` that another open file has locked.
pub(crate) fn shared_lock_within(file: &File, range: &Range<u64>) -> Option<u64> {
    let mut request = lock_request(libc::F_WRLCK, range);
    control_lock(file, libc::F_OFD_GETLK, &mut request).ok()?;
    (request.l_type != libc::F_UNLCK as libc::c_short).then_some(request.l_start as u64)
}

/// A writer trusts only a file that nobody else could have prepared: `/dev/shm` is open to all users.
pub(crate) fn check_owner(metadata: &Metadata) -> Result<(), Refusal> {
    // SAFETY: always succeeds.
    #[allow(unsafe_code)]
    let user = unsafe { libc::geteuid() };
    if metadata.uid() != user {
        Err(Refusal::NotOurs("owned by another user"))
    } else if metadata.mode() & 0o022 != 0 {
        Err(Refusal::NotOurs("writable by others"))
    } else {
        Ok(())
    }
}

/// Reads and checks the fixed header, and the file's size against it.
pub(crate) fn read_header(file: &File) -> Result<FileHeader, Refusal> {
    let metadata = file.metadata().map_err(failed("examine it"))?;
    if !metadata.is_file() {
        return Err(Refusal::NotOurs("not a regular file"));
    }
    let have = metadata.len();
    let mut bytes = [0; FILE_HEADER_BYTES];
    if have < FILE_HEADER_BYTES as u64 {
        return Err(if have == 0 {
            Refusal::Truncated { have, need: HEADER_BYTES }
        } else {
            Refusal::Foreign
        });
    }
    file.read_exact_at(&mut bytes, 0).map_err(failed("read it"))?;
    check_header(FileHeader::from_bytes(bytes), have)
}

fn check_header(header: FileHeader, have: u64) -> Result<FileHeader, Refusal> {
    if header.magic != MAGIC {
        return Err(Refusal::Foreign);
    }
    if header.version != VERSION {
        return Err(Refusal::Version { found: header.version, expected: VERSION });
    }
    if header.check != header.computed_check() || u64::from(header.header_bytes) != HEADER_BYTES {
        return Err(Refusal::Corrupt("checksum of the file header"));
    }
    check_ring_bytes(header.ring_bytes)?;
    match HEADER_BYTES + header.ring_bytes {
        need if have < need => Err(Refusal::Truncated { have, need }),
        need if have > need => Err(Refusal::Corrupt("longer than its header says")),
        _ => Ok(header),
    }
}

/// Whole pages, and no overflow however they are added up.
pub(crate) fn check_ring_bytes(bytes: u64) -> Result<(), Refusal> {
    if bytes < PAGE || !bytes.is_multiple_of(PAGE) || bytes > 1 << 40 {
        Err(Refusal::RingBytes(bytes))
    } else {
        Ok(())
    }
}
