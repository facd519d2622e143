// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's own selftests, unmodified. The lab builds them from the source
//! of its kernels and puts them into `/selftests`. `list` says how each program
//! is run and what is expected of it.

mod kmsg;
mod list;
mod output;
mod process;
mod run;
mod settings;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::hardware::{Ended, Message};
use crate::needs::Need;
use list::{Plan, Program};

/// The folder of the programs, by suite.
const FOLDER: &str = "/selftests";

/// The file in it that says why there are none.
const MISSING: &str = "missing";

/// The suites, for machines that have no program.
const SUITES: [&str; 3] = ["kvm", "vfio", "iommu"];

/// Which programs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// None.
    None,
    /// Some that take a minute in the lab together.
    Quick,
    /// All.
    All,
}

impl Selection {
    const WORDS: [(&str, Self); 3] = [
        ("none", Self::None),
        ("quick", Self::Quick),
        ("all", Self::All),
    ];

    /// The selection of that name.
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == name);
        found.map(|(_, selection)| *selection)
    }
}

/// The index of the selection in `WORDS`.
static SELECTED: AtomicU8 = AtomicU8::new(2);

/// Sets the selection for later calls of [`all`].
pub fn select(selection: Selection) {
    SELECTED.store(selection as u8, Ordering::Relaxed);
}

fn selected() -> Selection {
    Selection::WORDS[usize::from(SELECTED.load(Ordering::Relaxed))].1
}

/// A test of this module.
#[derive(Clone, Copy, Debug)]
pub enum Selftest {
    /// One run of a program.
    Program(&'static Program),
    /// The list has every program, and the other way round.
    List,
    /// The kernel's log is read as it must be to judge a program.
    Log,
    /// Stands for the programs of a suite where there are none.
    Suite(&'static str),
}

impl Selftest {
    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Program(program) => format!("selftest::{}", program.name()),
            Self::List => "selftest::every_program_of_the_build_is_listed".into(),
            Self::Log => "selftest::the_kernels_log_is_read_from_its_opening_on".into(),
            Self::Suite(suite) => format!("selftest::{suite}"),
        }
    }

    /// What the machine must have.
    pub fn needs(self) -> &'static [Need] {
        match self {
            // One that is not run is reported as such everywhere.
            Self::Program(program) if matches!(program.plan, Plan::NotRun(_)) => &[],
            Self::Program(program) => program.needs,
            Self::List | Self::Log | Self::Suite(_) => &[Need::Selftests],
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// The program fails, the kernel gives a warning meanwhile, or the list and
    /// the folder differ.
    pub fn run(self, report: &dyn Fn(Message)) -> Result<Ended, String> {
        match self {
            Self::Program(program) => run::run(program, Path::new(FOLDER), report),
            Self::List => {
                let release = fs::read_to_string("/proc/sys/kernel/osrelease");
                let is_patched = release.is_ok_and(|text| text.contains("private-mmio"));
                let found = programs(Path::new(FOLDER), "");
                let faults = disagreements(list::PROGRAMS.iter().copied(), &found, is_patched);
                match faults.is_empty() {
                    true => Ok(Ended::Passed),
                    false => Err(faults.join("; ")),
                }
            }
            Self::Log => kmsg::reads_news_only().map(|()| Ended::Passed),
            // Its need is not met where this test exists.
            Self::Suite(suite) => Err(format!("{FOLDER} has appeared, with {suite}")),
        }
    }
}

/// The selected tests. Without programs, one test stands for each suite.
pub fn all() -> Vec<Selftest> {
    let selection = selected();
    if lacks(Path::new(FOLDER)).is_some() && selection != Selection::None {
        return SUITES.map(Selftest::Suite).into();
    }
    let is_selected = |program: &&Program| match selection {
        Selection::None => false,
        Selection::Quick => program.is_quick,
        Selection::All => true,
    };
    let programs = list::PROGRAMS.iter().copied().flatten();
    let programs = programs.filter(is_selected).map(Selftest::Program);
    let own = [Selftest::List, Selftest::Log].into_iter();
    let own = own.filter(|_| selection != Selection::None);
    programs.chain(own).collect()
}

/// Why this machine has no programs, if it has none.
pub fn lacks_programs() -> Option<String> {
    lacks(Path::new(FOLDER))
}

fn lacks(folder: &Path) -> Option<String> {
    match fs::read_to_string(folder.join(MISSING)) {
        Ok(why) => Some(format!("{}: {}", folder.display(), why.trim())),
        Err(_) if folder.is_dir() => None,
        Err(_) => Some(format!(
            "{} has the kernel's selftests, on the lab's own kernels only",
            folder.display()
        )),
    }
}

/// The paths of all files below a folder, relative to it.
fn programs(folder: &Path, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => found.extend(programs(&entry.path(), &format!("{name}/"))),
            false => {
                found.insert(name);
            }
        }
    }
    found
}

/// How a list and the programs of a build differ. Programs of this project's
/// patches need not be in the build of an unpatched kernel.
fn disagreements<'a>(
    lists: impl Iterator<Item = &'a [Program]>,
    found: &BTreeSet<String>,
    is_patched: bool,
) -> Vec<String> {
    let listed: Vec<&Program> = lists.flatten().collect();
    let is_listed = |path: &str| listed.iter().any(|program| program.path == path);
    let new = found.iter().filter(|path| !is_listed(path));
    let new = new.map(|path| format!("{path} is not in tests/src/selftests/list"));
    let is_due = |program: &&&Program| is_patched || !program.needs.contains(&Need::BackingFd);
    let paths = listed.iter().filter(is_due).map(|program| program.path);
    let paths: BTreeSet<&str> = paths.collect();
    let gone = paths.into_iter().filter(|path| !found.contains(*path));
    let gone = gone.map(|path| format!("{path} is listed and was not built"));
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use list::program;

    #[test]
    fn a_program_that_only_the_list_or_only_the_build_has_is_named() {
        const LIST: [Program; 4] = [
            program("kvm/a"),
            program("kvm/b"),
            program("kvm/b").variant("again"),
            program("kvm/of_patch").needs(&[Need::Kvm, Need::BackingFd]),
        ];
        let faults = |found: &[&str], is_patched| {
            let found = found.iter().map(ToString::to_string).collect();
            disagreements([&LIST[..]].into_iter(), &found, is_patched)
        };
        assert!(faults(&["kvm/a", "kvm/b"], false).is_empty());
        assert_eq!(
            faults(&["kvm/a", "kvm/b"], true),
            ["kvm/of_patch is listed and was not built"]
        );
        assert_eq!(
            faults(&["kvm/a", "kvm/new"], false),
            [
                "kvm/new is not in tests/src/selftests/list",
                "kvm/b is listed and was not built"
            ]
        );
    }

    #[test]
    fn names_are_unique_and_every_suite_is_listed() {
        let programs = list::PROGRAMS.iter().copied().flatten();
        let names: Vec<String> = programs
            .map(|program| Selftest::Program(program).name())
            .collect();
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        for suite in SUITES {
            let start = format!("selftest::{suite}::");
            assert!(names.iter().any(|name| name.starts_with(&start)));
        }
        assert!(names.contains(&"selftest::kvm::x86_smm_test".to_string()));
    }

    #[test]
    fn a_folder_without_programs_says_why() {
        let folder = std::env::temp_dir().join(format!("selftests-{}", std::process::id()));
        assert!(lacks(&folder).is_some_and(|why| why.contains("own kernels only")));
        fs::create_dir_all(folder.join("kvm/x86")).expect("made");
        assert_eq!(lacks(&folder), None);
        fs::write(folder.join("kvm/x86/a"), "").expect("written");
        fs::write(folder.join("kvm/b"), "").expect("written");
        let expected = ["kvm/b", "kvm/x86/a"].map(String::from);
        assert_eq!(programs(&folder, ""), BTreeSet::from(expected));
        fs::write(folder.join(MISSING), "no uuid-dev\n").expect("written");
        assert!(lacks(&folder).is_some_and(|why| why.ends_with(": no uuid-dev")));
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_selection_is_found_by_its_name() {
        for (word, selection) in Selection::WORDS {
            assert_eq!(Selection::named(word), Some(selection));
            assert_eq!(Selection::WORDS[selection as usize].1, selection);
        }
        assert_eq!(Selection::named("some"), None);
    }
}
