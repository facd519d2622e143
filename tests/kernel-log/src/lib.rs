// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds errors of a Linux kernel in its log. The lab reads the console after a
//! run, and the hardware tests read `/dev/kmsg` during one: both use this rule.
#![forbid(unsafe_code)]

/// How a kernel ends.
const END: [&str; 2] = ["Kernel panic - not syncing", "Oops: "];

/// The prefixes of WARN_ON, lockdep, KASAN, UBSAN and the checks of RCU.
const WRONG: [&str; 5] = [
    "BUG: ",
    "WARNING: ",
    "UBSAN: ",
    "INFO: task ",
    "INFO: suspicious RCU",
];

/// The suffixes of kernels that have the fixes in `xtask/lab/kvm-fixes`. A log
/// names its kernel at the start, and below each warning.
const FIXED: [&str; 2] = ["-lab-private-mmio", "-lab-gmem-attributes"];

/// What a log says of its kernel. Of each kind of line, the first one is kept, so a
/// log of any length can be judged while it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    lines: u64,
    is_fixed: bool,
    fixable: Option<(u64, String)>,
    wrong: Option<(u64, String)>,
    end: Option<String>,
}

impl Judgement {
    /// The judgement of a whole log.
    pub fn of(log: &str) -> Self {
        let mut judgement = Self::default();
        log.lines().for_each(|line| judgement.line(line));
        judgement
    }

    /// Takes the next line of the log.
    pub fn line(&mut self, line: &str) {
        let (number, line) = (self.lines, line.trim());
        self.lines += 1;
        self.is_fixed |= FIXED.iter().any(|suffix| line.contains(suffix));
        let has_one = |marks: &[&str]| marks.iter().any(|mark| line.contains(mark));
        if is_fixable(line) {
            self.fixable.get_or_insert_with(|| (number, line.into()));
        } else if has_one(&WRONG) {
            self.wrong.get_or_insert_with(|| (number, line.into()));
        } else if has_one(&END) {
            self.end.get_or_insert_with(|| line.into());
        }
    }

    /// The line with an error of the kernel, if there is one: a warning about itself,
    /// or the reason why it ended.
    pub fn complaint(&self) -> Option<&str> {
        let fixable = self.fixable.as_ref().filter(|_| self.is_fixed);
        let wrong = fixable.into_iter().chain(&self.wrong).min();
        // The warning comes first and explains the end.
        let line = wrong.map(|(_, line)| line).or(self.end.as_ref());
        line.map(String::as_str)
    }

    /// The line with a warning that does not fail the tests, if there is one.
    pub fn known_warning(&self) -> Option<&str> {
        let known = self.fixable.as_ref().filter(|_| !self.is_fixed);
        known.map(|(_, line)| line.as_str())
    }
}

/// A check in KVM that fails on kernels without the fixes: a vCPU that found no
/// memslot meets the page of one that was created in between. The guest
/// continues.
fn is_fixable(line: &str) -> bool {
    line.contains("WARNING: ") && line.contains(" at kvm_tdp_mmu_map+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_explains_the_end_is_found() {
        let console = "[1.0] Linux\r\n[1.2] Kernel panic - not syncing: No init found.\r\n---[ end";
        let judgement = Judgement::of(console);
        let words = judgement.complaint().expect("a panic");
        assert_eq!(words, "[1.2] Kernel panic - not syncing: No init found.");
        assert_eq!(Judgement::of("[1.0] all is well\n").complaint(), None);
    }

    #[test]
    fn a_warning_of_the_kernel_is_found_before_its_end() {
        for line in [
            "[    4.2] WARNING: CPU: 0 PID: 61 at virt/kvm/kvm_main.c:1 it+0x1/0x2",
            "[    4.2] WARNING: virt/kvm/kvm_main.c:1 at it+0x1/0x2, CPU#0: hw-tests/61",
            "[    4.2] WARNING: possible circular locking dependency detected",
            "[    4.2] WARNING: suspicious RCU usage",
            "[    4.2] BUG: KASAN: slab-use-after-free in it+0x1/0x2",
            "[    4.2] BUG: sleeping function called from invalid context at it.c:1",
            "[    4.2] BUG: unable to handle page fault for address: 0",
            "[    4.2] UBSAN: array-index-out-of-bounds in it.c:1:2",
        ] {
            let console = format!("[1.0] Linux\n{line}\n[5.0] Kernel panic - not syncing: it\n");
            assert_eq!(Judgement::of(&console).complaint(), Some(line));
        }
    }

    #[test]
    fn a_known_warning_is_not_an_error_and_hides_no_other() {
        let known =
            "[   56.4] WARNING: arch/x86/kvm/mmu/tdp_mmu.c:1137 at kvm_tdp_mmu_map+0x4dd/0x5c0";
        let other = "[   57.0] WARNING: arch/x86/kvm/mmu/tdp_mmu.c:20 at kvm_tdp_mmu_zap+0x1/0x2";
        assert_eq!(Judgement::of(known).complaint(), None);
        assert_eq!(Judgement::of(known).known_warning(), Some(known));
        let both = Judgement::of(&format!("{known}\n{other}\n"));
        assert_eq!(both.complaint(), Some(other));
        assert_eq!(both.known_warning(), Some(known));
        assert_eq!(Judgement::of(other).known_warning(), None);
    }

    #[test]
    fn the_known_warning_is_an_error_of_a_kernel_that_has_the_fix() {
        let warning = "[ 56.4] WARNING: arch/x86/kvm/mmu/tdp_mmu.c:1 at kvm_tdp_mmu_map+0x4/0x5";
        let of = |release: &str| format!("[ 0.0] Linux version {release}\n{warning}\n");
        assert_eq!(Judgement::of(&of("7.3.4-lab")).complaint(), None);
        for release in ["7.3.4-lab-private-mmio", "7.3.4-lab-gmem-attributes"] {
            let log = format!("{}[ 57.0] BUG: it\n", of(release));
            let fixed = Judgement::of(&log);
            assert_eq!(fixed.complaint(), Some(warning));
            assert_eq!(fixed.known_warning(), None);
        }
    }

    #[test]
    fn output_of_qemu_and_of_tests_is_not_a_kernel_error() {
        let console = "qemu-system-x86_64: warning: TCG doesn't support it\n\
                       [    2.5] kvm: user requested TSC rate below hardware speed\n\
                       [    2.6] Warning: unable to open an initial console.\n";
        assert_eq!(Judgement::of(console).complaint(), None);
    }
}
