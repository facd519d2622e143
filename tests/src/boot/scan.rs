// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Looks for bytes in everything that a process can read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;

use crate::check::at;

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// How long a scan may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Mappings that are no memory of the process: the kernel's clocks and its old
/// system calls, and devices.
const NOT_MEMORY: [&str; 5] = ["[vvar", "[vsyscall]", "vfio", "dmabuf", "/dev/"];

/// What a scan has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The bytes that were read.
    pub bytes: u64,
    /// The mappings in which one of the texts was found, as Linux lists them.
    pub found: Vec<String>,
}

/// Reads all readable mappings of a process, also those of shared guest memory.
///
/// # Errors
/// A mapping cannot be read, or the scan takes too long.
pub fn scan(process: u32, texts: &[&[u8]]) -> Result<Scan, String> {
    let start = Instant::now();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).map_err(at("maps"))?;
    let memory = File::open(format!("/proc/{process}/mem")).map_err(at("memory"))?;
    let mut search = Search::new(texts, CHUNK);
    let (mut bytes, mut found) = (0, Vec::new());
    for line in maps.lines() {
        let Some((first, end)) = readable(line)? else {
            continue;
        };
        bytes += end - first;
        let read = |buffer: &mut [u8], position| {
            let read = memory.read_exact_at(buffer, position);
            read.map_err(|e| format!("{line}: at {position:#x}: {e}"))?;
            match start.elapsed() > LIMIT {
                true => Err(format!("a scan takes longer than {LIMIT:?}: {line}")),
                false => Ok(()),
            }
        };
        if search.finds_in(first, end, read)? {
            found.push(line.to_string());
        }
    }
    Ok(Scan { bytes, found })
}

/// A search in memory that is read in chunks.
struct Search<'a> {
    texts: Vec<Finder<'a>>,
    buffer: Vec<u8>,
    /// A text may begin in one chunk and end in the next.
    overlap: usize,
}

impl<'a> Search<'a> {
    fn new(texts: &[&'a [u8]], chunk: usize) -> Self {
        let longest = texts.iter().map(|text| text.len()).max();
        let overlap = longest.unwrap_or_default().saturating_sub(1);
        Self {
            texts: texts.iter().copied().map(Finder::new).collect(),
            buffer: vec![0; chunk + overlap],
            overlap,
        }
    }

    /// Whether a text is at these addresses, of which `read` reads a part.
    fn finds_in(
        &mut self,
        first: u64,
        end: u64,
        read: impl Fn(&mut [u8], u64) -> Result<(), String>,
    ) -> Result<bool, String> {
        let (mut position, mut kept, mut found) = (first, 0, false);
        while position < end {
            let left = usize::try_from(end - position).unwrap_or(usize::MAX);
            let filled = kept + left.min(self.buffer.len() - self.overlap);
            read(&mut self.buffer[kept..filled], position)?;
            let chunk = &self.buffer[..filled];
            found |= self.texts.iter().any(|text| text.find(chunk).is_some());
            position += (filled - kept) as u64;
            kept = self.overlap.min(filled);
            self.buffer.copy_within(filled - kept..filled, 0);
        }
        Ok(found)
    }
}

/// The addresses of a mapping in `/proc/PID/maps`, if it is memory that the process
/// can read.
fn readable(line: &str) -> Result<Option<(u64, u64)>, String> {
    let (range, rest) = line.split_once(' ').unwrap_or((line, ""));
    let address = |text| u64::from_str_radix(text, 16).map_err(at(line));
    let (first, end) = range.split_once('-').ok_or(format!("no range: '{line}'"))?;
    let range = (address(first)?, address(end)?);
    let is_memory = !NOT_MEMORY.iter().any(|name| rest.contains(name));
    Ok((rest.starts_with('r') && is_memory).then_some(range))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_text_is_found_wherever_chunks_end() {
        let memory = b"....needle......";
        let finds = |text: &[u8], chunk| {
            let read = |buffer: &mut [u8], position| {
                let at = usize::try_from(position).expect("small");
                buffer.copy_from_slice(&memory[at..at + buffer.len()]);
                Ok(())
            };
            let end = memory.len() as u64;
            Search::new(&[b"nothing", text], chunk).finds_in(0, end, read)
        };
        for chunk in 1..20 {
            assert_eq!(finds(b"needle", chunk), Ok(true), "{chunk}");
            assert_eq!(finds(b"needle!", chunk), Ok(false), "{chunk}");
        }
    }

    #[test]
    fn a_scan_of_a_process_finds_its_environment() {
        let mut cat = Command::new("cat");
        let cat = cat.env("TEXT", "in the environment").stdin(Stdio::piped());
        let mut cat = cat.stdout(Stdio::null()).spawn().expect("cat");
        let seen = scan(cat.id(), &[b"TEXT=in the environment"]);
        let other = scan(cat.id(), &[b"TEXT=in no environment"]);
        cat.kill().and_then(|()| cat.wait()).expect("its end");
        let found = seen.expect("a scan").found;
        assert!(
            found.iter().any(|line| line.ends_with("[stack]")),
            "{found:?}"
        );
        assert_eq!(other.expect("a scan").found, [""; 0]);
    }

    #[test]
    fn only_readable_memory_is_scanned() {
        let of = |line| readable(line).expect("a mapping");
        let heap = "55d0a000-55d0b000 rw-p 00000000 00:00 0                  [heap]";
        assert_eq!(of(heap), Some((0x55d0_a000, 0x55d0_b000)));
        for line in [
            "7f00a000-7f00b000 ---p 00000000 00:00 0",
            "7f00a000-7f00b000 r--p 00000000 00:00 0                  [vvar_vclock]",
            "7f00a000-7f00b000 rw-s 00000000 00:0f 9  anon_inode:[vfio-device]",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        assert!(readable("[heap]").is_err());
    }
}
