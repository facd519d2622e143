// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is printed on a terminal fits it.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::common::example;

/// Runs the program on a terminal of some columns, and returns its lines.
fn lines(columns: u16, variable: Option<&str>, args: &[&str]) -> Vec<String> {
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&screen, size).unwrap();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&screen, flags).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.args(args).env_remove("COLUMNS");
    command.envs(variable.map(|columns| ("COLUMNS", columns)));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(terminal)
        .spawn()
        .unwrap();
    // It has the terminal's other descriptor, too.
    drop(command);
    let mut text = Vec::new();
    // The screen of a terminal that no one has open any more reports an error.
    let _ = File::from(screen).read_to_end(&mut text);
    assert!(child.wait().unwrap().success(), "{args:?}");
    let text = String::from_utf8(text).unwrap();
    text.lines().map(str::to_string).collect()
}

fn widest(lines: &[String]) -> usize {
    let widths = lines.iter().map(|line| line.chars().count());
    widths.max().expect("some lines")
}

#[test]
fn the_steps_of_a_run_fit_terminals_of_any_width() {
    let run = ["run", &example("confidential"), "--backend", "sim"];
    let mut counts = Vec::new();
    for columns in [44, 60, 80, 200] {
        let lines = lines(columns, None, &run);
        assert!(widest(&lines) <= columns.into(), "{columns}: {lines:#?}");
        counts.push(lines.len());
    }
    assert!(counts.is_sorted_by(|a, b| a > b), "{counts:?}");
}

#[test]
fn reasons_stand_beside_their_step_where_there_is_room() {
    let run = ["run", "--backend", "sim"];
    let reason = "private-registers + 0x0: there is no host address at 0xe0000000";
    let beside = |columns| {
        let lines = lines(columns, None, &run);
        let line = lines.iter().find(|line| line.contains(reason));
        line.expect("the reason is whole").contains("host-read")
    };
    assert!(!beside(80));
    assert!(beside(140));
}

#[test]
fn maps_and_reports_of_bars_fit_the_terminal() {
    let nvme = format!(
        "{}/../../examples/nvme-lspci.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let (pc, assigned) = (example("pc"), example("assigned-device"));
    for args in [
        &["map", &pc][..],
        &["map", &assigned],
        &["bars", "--config", &nvme],
    ] {
        for columns in [44, 60, 100] {
            let lines = lines(columns, None, args);
            assert!(widest(&lines) <= columns.into(), "{columns}: {lines:#?}");
        }
    }
}

#[test]
fn the_variable_for_columns_precedes_the_terminals_size() {
    let run = ["run", &example("confidential"), "--backend", "sim"];
    let wide = lines(200, None, &run);
    assert!(widest(&wide) > 80);
    assert!(widest(&lines(200, Some("60"), &run)) <= 60);
    // A terminal that does not know its size.
    assert!(widest(&lines(0, None, &run)) <= 80);
}
