// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs each target on its seeds, on damaged seeds and on any bytes. It needs
//! no fuzzer, so the change that breaks a target fails its own tests.

use std::fs;
use std::path::{Path, PathBuf};

use fuzz_targets::{TARGETS, Target};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn seeds(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let entries = fs::read_dir(seeds.join(target.name)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    paths.into_iter().map(read).collect()
}

#[test]
fn every_seed_is_valid_to_its_end_and_small() {
    for target in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{}", target.name);
        for (path, bytes) in seeds {
            assert!((target.run)(&bytes), "{}", path.display());
            assert!(bytes.len() <= 4096, "{}", path.display());
        }
    }
}

#[test]
fn every_target_has_a_fuzzer() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let path = format!("fuzz_targets/{}.rs", target.name);
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path}");
        let fuzzer = fs::read_to_string(fuzz.join(&path)).unwrap();
        let call = format!("fuzz_targets::{}(data)", target.name);
        assert!(fuzzer.contains(&call), "{path}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// A good input with some bytes replaced and a part doubled or removed; or any
/// bytes.
fn inputs(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = || prop_oneof![any::<u8>(), b' '..=b'9', 0..8_u8, Just(0xff)];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), byte()), 0..6);
    let at = any::<prop::sample::Index>;
    let good = prop::sample::select(good);
    let damaged =
        (good, changes, at(), at(), 0..4_u8).prop_map(|(mut bytes, changes, a, b, how)| {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            let (a, b) = (a.min(b), a.max(b));
            match how {
                0 | 1 => bytes,
                2 => [&bytes[..a], &bytes[b..]].concat(),
                _ => [&bytes[..b], &bytes[a..]].concat(),
            }
        });
    // Long inputs repeat themselves, because random bytes are slow to generate.
    let any = (prop::collection::vec(byte(), 1..48), 0..400_usize)
        .prop_map(|(bytes, len)| bytes.into_iter().cycle().take(len).collect());
    prop_oneof![3 => damaged, 1 => any]
}

fn run(name: &str, cases: u32) {
    let target = *TARGETS.iter().find(|target| target.name == name).unwrap();
    let good = seeds(target).into_iter().map(|(_, bytes)| bytes).collect();
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let test = |bytes: Vec<u8>| {
        (target.run)(&bytes);
        Ok(())
    };
    let mut runner = TestRunner::new(config);
    runner
        .run(&inputs(good), test)
        .unwrap_or_else(|error| panic!("{error}"));
}

macro_rules! any_bytes {
    ($($name:ident: $cases:literal,)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name).trim_end_matches("_takes_any_bytes"), $cases);
            }
        )*
        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name).trim_end_matches("_takes_any_bytes")),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(run));
        }
    };
}

// As many cases as take a second or two.
any_bytes! {
    config_space_takes_any_bytes: 4000,
    conversions_takes_any_bytes: 1000,
    lspci_takes_any_bytes: 2000,
    machine_takes_any_bytes: 2000,
    model_takes_any_bytes: 100,
    mtree_takes_any_bytes: 2000,
    page_sets_takes_any_bytes: 500,
    region_info_takes_any_bytes: 4000,
    regions_takes_any_bytes: 2000,
    report_takes_any_bytes: 4000,
    slots_takes_any_bytes: 1000,
}
