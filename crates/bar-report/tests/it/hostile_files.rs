// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files that are endless, huge, damaged or of no known kind.

use bar_report::{BarReportError, with_causes};
use proptest::prelude::*;

use crate::support::Ask;
use support::devices::{Files, NIC, NVME, dump, nvme_config, report};

const REGIONS: &str = r#"[{"index":0,"size":"0x4000","flags":["read","write","mmap"],
    "msix_mappable":true,"sparse":[{"offset":"0x0","size":"0x2000"}]}]"#;

/// A report is printable and covers its BARs; an error is one short line.
fn is_sound(ask: &Ask) -> Result<(), TestCaseError> {
    match ask.run() {
        Ok(report) => {
            for bar in &report.bars {
                let size: u64 = bar.pieces.iter().map(|piece| piece.size()).sum();
                prop_assert_eq!(size, bar.bar.size());
            }
            prop_assert!(report.to_text().len() < 20_000);
            prop_assert_eq!(
                report.to_json()["bars"].as_array().unwrap().len(),
                report.bars.len() + report.unsized_io.len()
            );
        }
        Err(error) => {
            let words = with_causes(&error);
            prop_assert!(words.len() < 1000, "{words}");
            prop_assert!(!words.contains(|c: char| c.is_control()), "{words:?}");
        }
    }
    Ok(())
}

#[test]
fn endless_files_are_read_only_up_to_a_limit() {
    let files = Files::new();
    let nvme = files.put("nvme.txt", NVME);
    let error = Ask::config("/dev/zero").failure();
    assert!(
        error.contains("/dev/zero: it is larger than 16 MiB"),
        "{error}"
    );
    let device = Ask::config(&nvme);
    for ask in [
        device.clone().regions("/dev/zero"),
        device.clone().report("/dev/zero"),
    ] {
        let error = ask.failure();
        assert!(
            error.contains("/dev/zero: it is larger than 1 MiB"),
            "{error}"
        );
    }
    let folder = files.path().to_str().unwrap();
    for ask in [
        Ask::config(folder),
        device.clone().regions(folder),
        device.report(folder),
    ] {
        let error = ask.failure();
        assert!(error.contains(folder), "{error}");
    }
    for nothing in [files.put("empty", ""), "/dev/null".to_string()] {
        let error = Ask::config(&nothing).failure();
        assert!(error.contains("it is empty"), "{error}");
    }
}

#[test]
fn huge_lines_and_huge_counts_cost_no_more_than_they_are_long() {
    let files = Files::new();
    let long = "x".repeat(1 << 20);
    let many = "Region 0: Memory at 0 [size=16K]\n".repeat(20_000);
    let texts = [
        long.clone(),
        format!("{NVME}\tRegion 1: {long}\n"),
        format!("{NVME}\tRegion 1: Memory at {long} [size={long}]\n"),
        format!("01:00.0 {long}: {long}\n{NVME}"),
        NVME.replace("Count=33", &format!("Count={}", "9".repeat(1 << 18))),
        format!("{many}{}", "[\n".repeat(1 << 17)),
        "02:00.0 a: b\n".repeat(40_000),
        format!("{NVME}{}", dump(&[0; 1 << 17])),
        "> ".repeat(1 << 18),
    ];
    for (n, paste) in texts.iter().enumerate() {
        let path = files.put("text", paste);
        is_sound(&Ask::config(&path)).unwrap_or_else(|e| panic!("{n}: {e}"));
    }
}

#[test]
fn a_region_list_that_makes_no_sense_is_an_error_that_says_where() {
    let files = Files::new();
    let nvme = files.put("nvme.txt", NVME);
    for (regions, what) in [
        ("", "EOF while parsing a value at line 1"),
        ("{}", "invalid type: map, expected a sequence"),
        (r#"[{"index":0,"size":"0x4000"}]"#, "missing field `flags`"),
        (
            r#"[{"index":0,"size":"4 KiB","flags":[]}]"#,
            "expected a number such as \"0x4000\"",
        ),
        (
            r#"[{"index":0,"size":-1,"flags":[]}]"#,
            "expected a number such as",
        ),
        (
            r#"[{"index":0,"size":"0x+1","flags":[]}]"#,
            "expected a number such as",
        ),
        (
            r#"[{"index":0,"size":1.5,"flags":[]}]"#,
            "expected a number such as",
        ),
        (
            r#"[{"index":0,"size":1,"flags":["exec"]}]"#,
            "unknown variant `exec`",
        ),
        (
            r#"[{"index":0,"size":1,"flags":[],"spares":[]}]"#,
            "unknown field `spares`",
        ),
        (
            r#"[{"index":0,"size":1,"flags":[]},{"index":0,"size":1,"flags":[]}]"#,
            "region 0 is there twice",
        ),
        (
            r#"[{"index":0,"size":"0x3000","flags":[]}]"#,
            "not a power of two",
        ),
        (
            r#"[{"index":0,"size":"0x4000","flags":["mmap"],
                 "sparse":[{"offset":"0xffffffffffffffff","size":"0x1000"}]}]"#,
            "sparse area of 0x1000 bytes at 0xffffffffffffffff leaves the BAR",
        ),
    ] {
        let path = files.put("regions.json", regions);
        let error = Ask::config(&nvme).regions(&path).failure();
        assert!(error.contains(what), "{error}");
    }
    let deep = files.put("deep.json", "[".repeat(1 << 19));
    let error = Ask::config(&nvme).regions(&deep).failure();
    assert!(error.contains("deep.json"), "{error}");
}

#[test]
fn an_error_quotes_little_of_a_region_list_and_nothing_that_a_terminal_acts_upon() {
    let files = Files::new();
    let nvme = files.put("nvme.txt", NVME);
    let field = |name: &str| format!(r#"[{{"{name}": 0}}]"#);
    for list in [
        field("\\u001b[2J"),
        field("\u{7f}"),
        field(&"x".repeat(1 << 19)),
    ] {
        let regions = files.put("regions.json", list);
        is_sound(&Ask::config(&nvme).regions(&regions)).unwrap();
        let error = Ask::config(&nvme).regions(&regions).failure();
        assert!(error.contains("unknown field"), "{error}");
        assert!(error.contains("at line 1 column"), "{error}");
    }
}

#[test]
fn the_files_that_other_tests_damage_are_valid() {
    let files = Files::new();
    let whole = format!("{NVME}{}", dump(&nvme_config(256)));
    let config = files.put("config", whole);
    let regions = files.put("regions", REGIONS);
    let report = files.put("report", report(&[(9, 2, 0), (11, 1, 5)]));
    let all = Ask::config(&config).regions(&regions).report(&report);
    assert!(all.run().is_ok());
    let config = files.put("raw", nvme_config(256));
    assert!(Ask::config(&config).regions(&regions).run().is_ok());
    assert!(matches!(
        Ask::config(&config).run(),
        Err(BarReportError::File { .. })
    ));
}

/// Replaces some bytes of a valid file, and duplicates or removes a part of it.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    let byte = prop_oneof![any::<u8>(), b' '..=b'~', Just(b'\n'), Just(0)];
    let changes = prop::collection::vec((0..len, byte), 0..4);
    (changes, 0..len, 0..len, 0..3_u8).prop_map(move |(changes, a, b, how)| {
        let mut bytes = good.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let (a, b) = (a.min(b), a.max(b));
        match how {
            0 => bytes,
            1 => [&bytes[..a], &bytes[b..]].concat(),
            _ => [&bytes[..b], &bytes[a..]].concat(),
        }
    })
}

fn any_config() -> impl Strategy<Value = Vec<u8>> {
    let whole = format!("{NVME}{}\n", dump(&nvme_config(256)));
    let digits = "[ 0-9a-f:\\[\\]=KMGRegionMemoryatsizeMSI-XCountCapabilities\n>]{0,200}";
    prop_oneof![
        damaged(NVME.into()),
        damaged(whole.into()),
        damaged(NIC.into()),
        damaged(nvme_config(256)),
        prop::collection::vec(any::<u8>(), 0..300),
        digits.prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_config_gives_a_sound_answer_or_an_error(
        config in any_config(),
        with_regions in any::<bool>(),
    ) {
        let files = Files::new();
        let config = files.put("config", config);
        let regions = files.put("regions", REGIONS);
        let ask = Ask::config(&config);
        is_sound(&if with_regions { ask.regions(&regions) } else { ask })?;
    }

    #[test]
    fn any_regions_and_any_report_give_a_sound_answer_or_an_error(
        regions in prop::option::of(damaged(REGIONS.into())),
        report in damaged(report(&[(9, 2, 0), (11, 1, 5)])),
    ) {
        let files = Files::new();
        let config = files.put("config", NVME);
        let regions = regions.map(|regions| files.put("regions", regions));
        let report = files.put("report", report);
        let ask = Ask::config(&config).report(&report);
        is_sound(&match &regions {
            Some(regions) => ask.regions(regions),
            None => ask,
        })?;
    }
}
