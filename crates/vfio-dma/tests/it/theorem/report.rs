// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Figures for `cargo xtask explore`: a JSON object a line, in the file that
//! `THEOREM_REPORT` names.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

use kvm_slots::convert::Home;

use super::explore::Tally;

/// A small world was explored.
pub(crate) fn explored(home: Home, tally: &Tally) {
    let Tally {
        states,
        transitions,
        with_faults,
        calls,
        ..
    } = tally;
    line(
        home,
        &format!(
            r#""states":{states},"transitions":{transitions},"with_faults":{with_faults},"calls":{calls}"#
        ),
    );
}

/// Random steps were made.
pub(crate) fn ran(home: Home, steps: usize, calls: usize) {
    line(home, &format!(r#""steps":{steps},"calls":{calls}"#));
}

/// The theorem does not hold.
pub(crate) fn violated(home: Home, how: &str) {
    line(home, &format!(r#""violation":"{}""#, how.escape_default()));
}

fn line(home: Home, figures: &str) {
    let Ok(path) = env::var("THEOREM_REPORT") else {
        return;
    };
    // The name of a test is that of its thread.
    let thread = thread::current();
    let world = thread.name().and_then(|name| name.rsplit("::").next());
    let line = format!(
        "{{\"world\":\"{}\",\"home\":\"{home}\",{figures}}}\n",
        world.unwrap_or_default()
    );
    let file = OpenOptions::new().create(true).append(true).open(path);
    // In one call, because tests run beside each other.
    file.unwrap().write_all(line.as_bytes()).unwrap();
}
