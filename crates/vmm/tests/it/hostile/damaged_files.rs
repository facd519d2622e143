// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No machine file, however damaged, makes the reader or a run panic.

use kvm_slots::AbiProfile;
use kvm_slots::sim::KernelVersion;
use memory_map::text;
use proptest::prelude::*;
use vmm::backend::sim::Sim;
use vmm::machine::Machine;
use vmm::run::Run;

const EXAMPLES: [&str; 8] = [
    include_str!("../../../src/built-in.toml"),
    include_str!("../../../../../examples/assigned-device.toml"),
    include_str!("../../../../../examples/confidential.toml"),
    include_str!("../../../../../examples/large.toml"),
    include_str!("../../../../../examples/pc.toml"),
    include_str!("../../../../../examples/private-mmio.toml"),
    include_str!("../../../../../examples/real-devices.toml"),
    include_str!("../../../../../examples/tee-device.toml"),
];

/// What can happen to a file.
#[derive(Clone, Debug)]
enum Damage {
    /// A byte becomes another.
    Byte(prop::sample::Index, u8),
    /// A line goes.
    NoLine(prop::sample::Index),
    /// A line comes once more, elsewhere.
    Copy(prop::sample::Index, prop::sample::Index),
    /// Two lines change places.
    Swap(prop::sample::Index, prop::sample::Index),
    /// The rest goes.
    Cut(prop::sample::Index),
    /// A number becomes a nasty one.
    Number(prop::sample::Index, &'static str),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    const NUMBERS: &[&str] = &[
        "0",
        "-1",
        "\"16E\"",
        "0xffff_ffff_ffff_ffff",
        "\"0x1_0000_0000_0000_0000\"",
        "9223372036854775807",
        "1e400",
        "{}",
        "[]",
    ];
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        index().prop_map(Damage::NoLine),
        (index(), index()).prop_map(|(from, to)| Damage::Copy(from, to)),
        (index(), index()).prop_map(|(a, b)| Damage::Swap(a, b)),
        index().prop_map(Damage::Cut),
        (index(), prop::sample::select(NUMBERS)).prop_map(|(at, n)| Damage::Number(at, n)),
    ]
}

fn damaged(text: &str, damage: &Damage) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return String::new();
    }
    let count = lines.len();
    match damage {
        Damage::Byte(at, byte) => {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = *byte;
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        Damage::NoLine(at) => drop(lines.remove(at.index(count))),
        Damage::Copy(from, to) => lines.insert(to.index(count), lines[from.index(count)]),
        Damage::Swap(a, b) => lines.swap(a.index(count), b.index(count)),
        Damage::Cut(at) => lines.truncate(at.index(count)),
        Damage::Number(at, number) => {
            let with_value = lines.iter().filter(|line| line.contains(" = "));
            let with_value: Vec<&str> = with_value.copied().collect();
            if with_value.is_empty() {
                return text.to_string();
            }
            let old = with_value[at.index(with_value.len())];
            let key = old.split(" = ").next().unwrap_or_default();
            return text.replacen(old, &format!("{key} = {number}"), 1);
        }
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_read_or_refused_by_name(
        example in 0..EXAMPLES.len(),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let mut text = EXAMPLES[example].to_string();
        for damage in &damages {
            text = damaged(&text, damage);
        }
        let machine = match Machine::from_text("damaged.toml", &text) {
            Ok(machine) => machine,
            Err(error) => {
                let said = error.to_string();
                prop_assert!(said.starts_with("damaged.toml:"), "{said}");
                let lines = text.lines().count() + 1;
                prop_assert!(error.line.is_some_and(|n| (1..=lines).contains(&n)), "{said}");
                prop_assert!(!error.problem.is_empty() && !said.contains('\n'), "{said}");
                return Ok(());
            }
        };
        // Large ones take long without telling more.
        if machine.regions.len() < 100 && machine.steps.len() < 1000 {
            run(&machine);
        }
    }
}

/// Puts a machine together and takes its steps, whatever comes of them.
fn run(machine: &Machine) {
    let abi = AbiProfile::FD_OFFSET_BIT_4;
    let sim = Sim::new(machine, KernelVersion::V7_3, abi);
    let Ok(mut run) = Run::new(machine, &sim) else {
        return;
    };
    for (index, step) in machine.steps.iter().enumerate() {
        let report = run.step(machine, index + 1, step);
        assert!(!report.text().is_empty());
    }
    let map = run.board.map(&machine.name);
    assert!(!text::tree(&map).is_empty() && !text::flat(&map).is_empty());
}
