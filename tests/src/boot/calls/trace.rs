// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counts the requests to KVM in the output of `strace -f -T -e trace=ioctl`.

use std::collections::HashMap;
use std::time::Duration;

/// What a process asked of KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// `KVM_SET_USER_MEMORY_REGION`, and the same with a 2.
    pub memslots: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that set a slot to what it is. `None` if the tracer does not show it.
    pub unchanged: Option<u64>,
    /// The slots at the end.
    pub slots: u64,
    /// The time in them, as the tracer sees it.
    pub time: Duration,
    /// Returns of `KVM_RUN`.
    pub exits: u64,
}

/// Reads a trace line by line.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    memslots: u64,
    failed: u64,
    unchanged: u64,
    /// Those of which strace does not show what they set.
    opaque: u64,
    time: Duration,
    exits: u64,
    /// The calls that threads have not returned from, up to where the line ends.
    unfinished: HashMap<String, String>,
    /// The slots as the text that set them, without the number.
    slots: HashMap<String, String>,
}

impl Trace {
    /// Reads the next line: the thread, then the call, its result and its time.
    pub fn line(&mut self, line: &str) {
        let Some((thread, call)) = line.split_once(' ') else {
            return;
        };
        let call = call.trim_start();
        if let Some(start) = call.strip_suffix(" <unfinished ...>") {
            self.unfinished.insert(thread.into(), start.into());
            return;
        }
        let start = self.unfinished.remove(thread);
        let whole = match (start, call.split_once(" resumed>")) {
            (Some(start), Some((_, end))) => start + end,
            _ => call.into(),
        };
        self.call(&whole);
    }

    /// The counts. `slots` are those at the end, if the process reports them.
    pub fn counts(&self, slots: Option<u64>) -> Counts {
        let slots = slots.unwrap_or(self.slots.len() as u64);
        let unchanged = match self.opaque {
            0 => Some(self.unchanged),
            // As many as there are slots: each has made one.
            _ => (self.memslots == slots).then_some(0),
        };
        Counts {
            memslots: self.memslots,
            failed: self.failed,
            unchanged,
            slots,
            time: self.time,
            exits: self.exits,
        }
    }

    fn call(&mut self, call: &str) {
        if call.contains(", KVM_RUN,") {
            self.exits += 1;
            return;
        }
        // How strace 6.1 shows the request with a 2, which it does not know.
        const SECOND: &str = ", _IOC(_IOC_WRITE, 0xae, 0x49, 0xa0),";
        if !call.contains(", KVM_SET_USER_MEMORY_REGION") && !call.contains(SECOND) {
            return;
        }
        self.memslots += 1;
        self.time += time_of(call).unwrap_or_default();
        if !call.contains(" = 0 <") {
            self.failed += 1;
            return;
        }
        match slot_of(call) {
            Some((slot, state)) if self.is_unchanged(slot, state) => self.unchanged += 1,
            Some(_) => {}
            None => self.opaque += 1,
        }
    }

    /// Sets a slot. Whether it was in this state.
    fn is_unchanged(&mut self, slot: &str, state: &str) -> bool {
        // A slot without a size does not exist.
        let old = match state.contains("memory_size=0,") {
            true => self.slots.remove(slot).or(Some(state.into())),
            false => self.slots.insert(slot.into(), state.into()),
        };
        old.is_some_and(|old| old == state)
    }
}

/// The number of a slot and its new state, in the form
/// `{slot=3, flags=0, guest_phys_addr=0, memory_size=4096, userspace_addr=0x7f…}`.
fn slot_of(call: &str) -> Option<(&str, &str)> {
    let (_, fields) = call.split_once("{slot=")?;
    fields.split_once('}')?.0.split_once(", ")
}

/// The time at the end, such as `<0.000012>`.
fn time_of(call: &str) -> Option<Duration> {
    let (_, time) = call.rsplit_once('<')?;
    let seconds = time.trim_end().strip_suffix('>')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: &str = "flags=0, guest_phys_addr=0xe0000000, memory_size=1048576, \
                        userspace_addr=0x7f0000000000";

    fn counts(lines: &[String]) -> Counts {
        let mut trace = Trace::default();
        lines.iter().for_each(|line| trace.line(line));
        trace.counts(None)
    }

    fn set(thread: u32, state: &str, result: &str) -> String {
        format!("{thread} ioctl(7, KVM_SET_USER_MEMORY_REGION, {{slot=3, {state}}}) = {result}")
    }

    #[test]
    fn calls_count_once_even_if_another_thread_interrupts_them() {
        let lines = [
            "12 ioctl(9, KVM_RUN, 0 <unfinished ...>".to_string(),
            set(11, SLOT, "0 <0.000250>"),
            "12 <... ioctl resumed>)             = 0 <0.004000>".into(),
            "12  ioctl(9, KVM_GET_REGS, {rax=0}) = 0 <0.000010>".into(),
            "11 ioctl(7, _IOC(_IOC_WRITE, 0xae, 0x49, 0xa0), 0x7ffc) = 0 <0.000050>".into(),
        ];
        let expected = Counts {
            memslots: 2,
            failed: 0,
            unchanged: None,
            slots: 1,
            time: Duration::from_micros(300),
            exits: 1,
        };
        assert_eq!(counts(&lines), expected);
    }

    #[test]
    fn only_a_call_that_changes_nothing_is_unchanged() {
        let moved = SLOT.replace("0xe0000000", "0xe0100000");
        let removed = SLOT.replace("1048576", "0");
        let states = [SLOT, &moved, SLOT, &removed, SLOT];
        let lines: Vec<String> = states.map(|state| set(11, state, "0 <0.000001>")).to_vec();
        assert_eq!(counts(&lines).unchanged, Some(0));
        let again = set(11, SLOT, "0 <0.000001>");
        assert_eq!(
            counts(&[lines.clone(), vec![again]].concat()).unchanged,
            Some(1)
        );
        let failed = set(11, SLOT, "-1 EEXIST (File exists) <0.000001>");
        let found = counts(&[lines, vec![failed]].concat());
        assert_eq!((found.unchanged, found.failed), (Some(0), 1));
    }
}
