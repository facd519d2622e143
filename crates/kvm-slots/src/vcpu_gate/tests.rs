// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The gate with threads and signals, but without KVM: `KVM_RUN` is a loop that
//! ends when `immediate_exit` is set.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::signal::SIGRTMIN;

use super::enter::{NotEntered, Purpose};
use super::entry::VcpuEntry;
use super::run_page::RunPage;
use super::shared::Shared;
use super::signal::ExitSignal;
use super::vcpu::PortWidth;

const ROUNDS: usize = 500;
const TOO_LONG: Duration = Duration::from_secs(60);

fn gate() -> Arc<Shared> {
    let signal = ExitSignal::install(SIGRTMIN() + 1).unwrap();
    Arc::new(Shared::new(signal))
}

/// A vCPU whose `kvm_run` is a page of a file, by two mappings.
struct Vcpu {
    entry: Arc<VcpuEntry>,
    kernel: RunPage,
    shared: Arc<Shared>,
}

impl Vcpu {
    fn new(shared: &Arc<Shared>) -> Self {
        // SAFETY: the name is a string, and nothing else is read.
        let fd = unsafe { libc::memfd_create(c"kvm_run".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: the descriptor was just made, and is used nowhere else.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(4096).unwrap();
        let entry = Arc::new(VcpuEntry::new(RunPage::map(&file).unwrap()));
        shared.insert(entry.clone());
        Self {
            entry,
            kernel: RunPage::map(&file).unwrap(),
            shared: shared.clone(),
        }
    }

    /// Calls `guest` again and again. Returns why that ended.
    fn run(&self, guest: impl Fn()) -> NotEntered {
        let thread = self.shared.signal().unblock().unwrap();
        loop {
            match self.entry.enter(&self.shared, thread, Purpose::Run) {
                Ok(inside) => {
                    while !self.kernel.is_immediate_exit() {
                        guest();
                        thread::yield_now();
                    }
                    assert!(inside.leave());
                    assert!(!self.kernel.is_immediate_exit());
                }
                Err(why) => return why,
            }
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.shared.remove(&self.entry);
    }
}

/// Fails a test that hangs.
fn within_time(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let running = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match ended.recv_timeout(TOO_LONG) {
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => running.join().unwrap(),
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < TOO_LONG, "{what}");
        thread::yield_now();
    }
}

#[test]
fn no_vcpu_moves_while_held_and_all_move_between_holds() {
    within_time(|| {
        let gate = gate();
        let counters: Vec<_> = (0..3).map(|_| AtomicU64::new(0)).collect();
        let read = || -> Vec<u64> { counters.iter().map(|c| c.load(Ordering::SeqCst)).collect() };
        thread::scope(|scope| {
            for counter in &counters {
                let vcpu = Vcpu::new(&gate);
                scope.spawn(move || {
                    let ended = vcpu.run(|| {
                        counter.fetch_add(1, Ordering::SeqCst);
                    });
                    assert_eq!(ended, NotEntered::Stopped);
                });
            }
            for _ in 0..ROUNDS {
                let before = read();
                let moved = || read().iter().zip(&before).all(|(now, before)| now > before);
                wait_for("a vCPU that moves", moved);
                gate.hold();
                let held = read();
                thread::yield_now();
                assert_eq!(read(), held);
                gate.release();
            }
            gate.stop();
        });
    });
}

#[test]
fn holders_from_several_threads_share_the_time_that_vcpus_are_out() {
    within_time(|| {
        let gate = gate();
        let inside = AtomicUsize::new(0);
        let vcpu = Vcpu::new(&gate);
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                vcpu.run(|| {
                    inside.store(1, Ordering::SeqCst);
                    thread::yield_now();
                    inside.store(0, Ordering::SeqCst);
                })
            });
            let holders = [(); 2].map(|()| {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        gate.hold();
                        gate.hold();
                        gate.release();
                        assert_eq!(inside.load(Ordering::SeqCst), 0);
                        gate.release();
                    }
                })
            });
            for holder in holders {
                holder.join().unwrap();
            }
            gate.stop();
            assert_eq!(running.join().unwrap(), NotEntered::Stopped);
        });
    });
}

#[test]
fn a_vcpu_that_waits_in_a_held_gate_can_be_kicked_and_stopped() {
    within_time(|| {
        let gate = gate();
        let vcpu = Vcpu::new(&gate);
        gate.hold();
        thread::scope(|scope| {
            let (kicked, first) = std::sync::mpsc::channel();
            let (entry, vcpu) = (&vcpu.entry, &vcpu);
            let running = scope.spawn(move || {
                kicked.send(vcpu.run(|| ())).unwrap();
                vcpu.run(|| ())
            });
            entry.kick(&gate);
            assert_eq!(first.recv().unwrap(), NotEntered::Kicked);
            // It waits again, sooner or later; a stop is for both.
            thread::sleep(Duration::from_millis(5));
            gate.stop();
            assert_eq!(running.join().unwrap(), NotEntered::Stopped);
        });
        gate.release();
    });
}

#[test]
fn a_kick_that_finds_the_vcpu_outside_ends_its_next_run() {
    within_time(|| {
        let gate = gate();
        let vcpu = Vcpu::new(&gate);
        vcpu.entry.kick(&gate);
        assert_eq!(vcpu.run(|| panic!("it entered")), NotEntered::Kicked);
    });
}

#[test]
fn completing_is_not_kicked_but_waits_for_holds() {
    within_time(|| {
        let gate = gate();
        let vcpu = Vcpu::new(&gate);
        let thread = gate.signal().unblock().unwrap();
        vcpu.entry.kick(&gate);
        let inside = vcpu.entry.enter(&gate, thread, Purpose::Complete).unwrap();
        assert!(vcpu.kernel.is_immediate_exit());
        drop(inside);
        assert!(!vcpu.kernel.is_immediate_exit());
        gate.hold();
        gate.stop();
        let held = vcpu.entry.enter(&gate, thread, Purpose::Complete);
        assert_eq!(held.unwrap_err(), NotEntered::Stopped);
        gate.release();
    });
}

#[test]
fn a_holder_does_not_wait_for_a_vcpu_whose_thread_panicked() {
    within_time(|| {
        let gate = gate();
        let panicked = thread::spawn({
            let vcpu = Vcpu::new(&gate);
            move || vcpu.run(|| panic!("in KVM_RUN"))
        });
        assert!(panicked.join().is_err());
        gate.hold();
        gate.release();
        assert!(gate.entries().is_empty());
    });
}

#[test]
fn the_width_of_port_accesses_is_the_kernels_and_never_0() {
    let vcpu = Vcpu::new(&gate());
    let width = PortWidth::of(&vcpu.entry);
    assert_eq!(width.get(), 1);
    for bytes in [4, 2, 1] {
        vcpu.kernel.set_port_width(bytes);
        assert_eq!(width.get(), usize::from(bytes));
    }
    assert!(!vcpu.kernel.is_immediate_exit());
    // It outlives the vCPU.
    drop(vcpu);
    assert_eq!(width.get(), 1);
}
