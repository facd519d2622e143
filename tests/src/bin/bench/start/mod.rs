// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The time from the start of a process to the first instructions of its guest:
//! `vmm boot` beside a process that makes the same requests to KVM and no others.
//! The instructions write to the serial port, which is the process's output. What
//! it takes to end a VM is not included.

pub mod bare;
mod image;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

/// The sizes of kernels in KiB: next to nothing, and one of a distribution.
const SIZES: [usize; 2] = [64, 14 << 10];

/// How often each process is started. They take turns.
const TIMES: usize = 60;

/// The guest's RAM in MiB.
pub const RAM: u64 = 512;

/// Times both for each size of the kernel, and prints JSON.
///
/// # Errors
/// A process cannot be started, or its guest does not switch itself off.
pub fn compare(vmm: &str) -> Result<(), String> {
    let this = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
    let file = std::env::temp_dir().join(format!("first-instruction.{}", std::process::id()));
    for kib in SIZES {
        let image = image::image(kib << 10);
        std::fs::write(&file, image).map_err(|e| format!("{}: {e}", file.display()))?;
        let times = take_turns(
            Command::new(vmm)
                .args(["boot", "--memory", &format!("{RAM}M"), "--kernel"])
                .arg(&file),
            Command::new(&this).arg("start-bare").arg(&file),
        );
        let _ = std::fs::remove_file(&file);
        let [ours, bare] = times?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        for (by, times) in [("vmm", ours), ("bare", bare)] {
            let (least, median) = (ms(times[0]), ms(times[times.len() / 2]));
            println!(
                "{}",
                json!({"kib": kib, "by": by, "least_ms": least, "median_ms": median})
            );
        }
    }
    Ok(())
}

/// The times of each command, from the least to the greatest.
fn take_turns(ours: &mut Command, bare: &mut Command) -> Result<[Vec<Duration>; 2], String> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TIMES {
        times[0].push(time(ours)?);
        times[1].push(time(bare)?);
    }
    times.iter_mut().for_each(|times| times.sort());
    Ok(times)
}

/// Starts a process and waits for its first output, then for its end.
fn time(command: &mut Command) -> Result<Duration, String> {
    let name = Path::new(command.get_program()).display().to_string();
    let failed = |e: std::io::Error| format!("{name}: {e}");
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let start = Instant::now();
    let child = command.stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(failed)?;
    let console = child.stdout.as_mut().ok_or("no output")?;
    let read = console.read(&mut [0]);
    let time = start.elapsed();
    let output = child.wait_with_output().map_err(failed)?;
    match read {
        Ok(1) if output.status.success() => Ok(time),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name}: {}: {}", output.status, said.trim()))
        }
    }
}
