// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Small files that expand to very much: every command on each of them ends
//! within limits on time, memory and output.

mod bomb;
mod dumps;
mod limited;
mod machines;
mod taken;

use std::sync::atomic::{AtomicUsize, Ordering};

use bomb::Bomb;
use dumps::dumps;
use limited::{Outcome, vmm};
use machines::machines;
use taken::endless_moves;

const MEMORY: u64 = 512 << 20;
const PRINTED: u64 = 128 << 20;

/// The longest error, so that people can read it.
const COMPLAINT: usize = 1000;

const COMMANDS: [&[&str]; 7] = [
    &["run", "--backend", "sim"],
    &["run", "--backend", "sim", "--json"],
    &["map", "--as", "tree"],
    &["map", "--as", "flat"],
    &["map", "--as", "slots"],
    &["map", "--as", "json"],
    &["map", "--as", "svg"],
];

/// Runs the commands on every bomb, and checks the outcome.
fn check_all(bombs: &[Bomb], commands: &[&[&str]]) {
    let folder = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(bomb) = bombs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let path = folder.path().join(bomb.name);
            std::fs::write(&path, &bomb.text).unwrap();
            let path = path.to_str().unwrap();
            // All commands read a file in the same way.
            let few = if bomb.said.is_some() {
                1
            } else {
                commands.len()
            };
            for command in &commands[..few] {
                check(bomb, command, path, &vmm(&[*command, &[path]].concat()));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

fn check(bomb: &Bomb, command: &[&str], path: &str, outcome: &Outcome) {
    let what = format!("{} on {}: {outcome:?}", command.join(" "), bomb.name);
    assert!(outcome.memory <= MEMORY, "{what}");
    assert!(outcome.printed <= PRINTED, "{what}");
    assert!(outcome.stderr.len() <= COMPLAINT + path.len(), "{what}");
    match bomb.said {
        Some(said) => {
            assert_eq!(outcome.status, Some(2), "{what}");
            assert!(
                outcome.stderr.starts_with(&format!("vmm: {path}:")),
                "{what}"
            );
            assert!(outcome.stderr.contains(said), "{what}");
        }
        // A script may be cut short, and may see other values than it expects.
        None if command[0] == "run" => assert!(matches!(outcome.status, Some(0..=2)), "{what}"),
        None => assert_eq!(outcome.status, Some(0), "{what}"),
    }
}

#[test]
fn every_command_on_every_machine_file_ends_and_names_the_limit() {
    check_all(&machines(), &COMMANDS);
}

#[test]
fn every_dump_ends_and_names_the_limit() {
    check_all(&dumps(), &[&["mtree"]]);
}

#[test]
fn a_file_of_more_than_4_mib_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.toml");
    std::fs::write(&path, "#".repeat((4 << 20) + 1)).unwrap();
    let path = path.to_str().unwrap();
    for command in COMMANDS {
        let outcome = vmm(&[command, &[path]].concat());
        assert_eq!(outcome.status, Some(2));
        let said = format!("vmm: {path}: it is larger than 4194304 bytes\n");
        assert_eq!(outcome.stderr, said);
        assert!(outcome.memory <= MEMORY, "{outcome:?}");
    }
}

#[test]
fn a_script_that_takes_too_long_is_cut_short_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.toml");
    std::fs::write(&path, endless_moves()).unwrap();
    let path = path.to_str().unwrap();
    for form in [&[][..], &["--json"]] {
        let arguments = [
            &["run", "--backend", "sim", "--seconds", "1", path][..],
            form,
        ];
        let outcome = vmm(&arguments.concat());
        assert_eq!(outcome.status, Some(2), "{outcome:?}");
        let start = format!("vmm: {path}: step ");
        let end = " was not run: 1 s of processor time or more were used before it (--seconds)\n";
        let said = &outcome.stderr;
        assert!(said.starts_with(&start) && said.ends_with(end), "{said}");
    }
}
