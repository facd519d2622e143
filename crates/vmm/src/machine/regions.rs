// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks the regions of a machine file.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use memory_model::PAGE_SIZE;
use toml::Spanned;
use vfio_private::BarIndex;

use super::alias_expansion::shown;
use super::bar_pieces;
use super::error::{MachineError, Source};
use super::fields::Subject;
use super::limits::{MAX_REGIONS, MAX_SHOWN, name_problem};
use super::number::Number;
use super::raw::{RawRegion, RawSpan};
use super::region_totals::Totals;
use super::spec::{AssignedBar, Backing, Bar, DeviceKind, DeviceName, Init, Kind, Place, Region};
use super::tdi_bar;

/// How large a region with memory may be, in bytes: KVM takes no slot of 8 TiB
/// or more.
const MAX_MEMORY: u128 = 1 << 42;

/// Checks the file's regions and adds the root before them.
pub(super) fn check(
    source: &Source<'_>,
    raws: &[Spanned<RawRegion>],
) -> Result<Vec<Region>, MachineError> {
    let mut regions = vec![Region {
        name: "system".into(),
        place: None,
        size: 1 << 64,
        kind: Kind::Container,
        enabled: true,
        readonly: false,
        init: Vec::new(),
    }];
    let mut by_name = HashMap::from([("system".to_string(), 0)]);
    let mut totals = Totals::new();
    let mut origins = vec![(0, 0)];
    let mut interfaces = HashSet::new();
    for (number, spanned) in raws.iter().enumerate() {
        let raw = spanned.as_ref();
        let count = raw.repeat.as_ref().map_or(1, |r| r.as_ref().count.get());
        for index in 0..count {
            let mut subject = subject(source, spanned, index);
            let name = subject.numbered(raw.name.as_ref());
            subject.name = format!("region '{name}'");
            if let Some(problem) = name_problem(&name) {
                return Err(subject.wrong("name", raw.name.span(), problem));
            }
            if by_name.insert(name.clone(), regions.len()).is_some() {
                let problem = "another region has this name; {} stands for the repetition".into();
                return Err(subject.wrong("name", raw.name.span(), problem));
            }
            if regions.len() >= MAX_REGIONS {
                let problem = format!("there are more than {MAX_REGIONS} regions");
                return Err(subject.wrong("name", raw.name.span(), problem));
            }
            let names = Names {
                by_name: &by_name,
                regions: &regions,
            };
            let region = region(&subject, &names, &mut totals, name, raw)?;
            tdi_bar::check_unique(&subject, &mut interfaces, &region, raw)?;
            regions.push(region);
            origins.push((number, index));
        }
    }
    let shown = shown(&regions, &totals.pieces);
    match shown[0] <= MAX_SHOWN {
        true => Ok(regions),
        false => Err(too_many_shown(source, raws, &regions, &shown, &origins)),
    }
}

/// The error that aliases show too much, at the alias that shows the most.
fn too_many_shown(
    source: &Source<'_>,
    raws: &[Spanned<RawRegion>],
    regions: &[Region],
    shown: &[u64],
    origins: &[(usize, u16)],
) -> MachineError {
    let is_alias = |&at: &usize| matches!(regions[at].kind, Kind::Alias { .. });
    let aliases = (0..regions.len()).filter(is_alias);
    // The first of equals. Without aliases a file has fewer regions.
    let most = aliases.max_by_key(|&at| (shown[at], Reverse(at)));
    let (number, index) = origins[most.unwrap_or(0)];
    let mut subject = subject(source, &raws[number], index);
    let raw = raws[number].as_ref();
    subject.name = format!("region '{}'", subject.numbered(raw.name.as_ref()));
    let field = raw.target.as_ref().unwrap_or(&raw.kind);
    let problem = format!("with all that aliases show there are more than {MAX_SHOWN} regions");
    subject.wrong("target", field.span(), problem)
}

/// One repetition of a region.
fn subject<'a>(source: &'a Source<'a>, spanned: &Spanned<RawRegion>, index: u16) -> Subject<'a> {
    let repeat = &spanned.as_ref().repeat;
    Subject {
        source,
        name: String::new(),
        span: spanned.span(),
        index: index.into(),
        repeat: repeat.as_ref().map(|repeat| repeat.as_ref().clone()),
    }
}

/// The regions so far.
struct Names<'a> {
    by_name: &'a HashMap<String, usize>,
    regions: &'a [Region],
}

impl Names<'_> {
    fn find(
        &self,
        subject: &Subject<'_>,
        field: &str,
        name: &Spanned<String>,
    ) -> Result<usize, MachineError> {
        let wanted = subject.numbered(name.as_ref());
        let index = self
            .by_name
            .get(&wanted)
            .filter(|&&index| index < self.regions.len());
        index.copied().ok_or_else(|| {
            let problem = format!("there is no region '{wanted}' above this one");
            subject.wrong(field, name.span(), problem)
        })
    }
}

fn region(
    subject: &Subject<'_>,
    names: &Names<'_>,
    totals: &mut Totals,
    name: String,
    raw: &RawRegion,
) -> Result<Region, MachineError> {
    Totals::list(&mut totals.init, subject, ("init", &raw.init))?;
    Totals::list(&mut totals.spans, subject, ("private", &raw.private))?;
    Totals::list(&mut totals.spans, subject, ("shared", &raw.shared))?;
    let kind = kind(subject, names, raw)?;
    let size = size(subject, &kind, raw)?;
    totals.pieces.push(match &kind {
        Kind::Bar(bar) => {
            let pieces = pieces(subject, raw, bar, size)?;
            let taken = totals.all_pieces.take(pieces);
            taken.map_err(|problem| subject.wrong("kind", raw.kind.span(), problem))?;
            pieces
        }
        _ => 0,
    });
    let init = init(subject, &kind, size, raw)?;
    let place = place(subject, names, raw)?;
    totals.nest(subject, raw, place)?;
    Ok(Region {
        place,
        name,
        size,
        kind,
        enabled: raw.enabled.unwrap_or(true),
        readonly: raw.readonly.unwrap_or(false),
        init,
    })
}

fn place(
    subject: &Subject<'_>,
    names: &Names<'_>,
    raw: &RawRegion,
) -> Result<Option<Place>, MachineError> {
    let Some(at) = &raw.at else {
        subject.refuse(
            ("in", &raw.r#in),
            "a region that lies nowhere (it has no 'at')",
        )?;
        return Ok(None);
    };
    let parent = match &raw.r#in {
        Some(parent) => names.find(subject, "in", parent)?,
        None => 0,
    };
    Ok(Some(Place {
        parent,
        at: subject.number("at", at, |repeat| repeat.stride)?,
        priority: priority(subject, raw)?,
    }))
}

fn priority(subject: &Subject<'_>, raw: &RawRegion) -> Result<i32, MachineError> {
    match &raw.priority {
        Some(field) if *field.as_ref() == i32::MAX => {
            let problem = format!("{} is kept for the guest's own code", i32::MAX);
            Err(subject.wrong("priority", field.span(), problem))
        }
        field => Ok(field.as_ref().map_or(0, |field| *field.as_ref())),
    }
}

fn kind(subject: &Subject<'_>, names: &Names<'_>, raw: &RawRegion) -> Result<Kind, MachineError> {
    let kind = match raw.kind.as_ref().as_str() {
        "container" => Kind::Container,
        "reserved" => Kind::Reserved,
        "mmio" => Kind::Mmio(device(subject, raw)?),
        "ram" => Kind::Ram(backing(subject, raw)?),
        "rom" => Kind::Rom,
        "rom-device" => Kind::RomDevice,
        "device-ram" => Kind::DeviceRam,
        "private-mmio" => Kind::PrivateMmio,
        "alias" => alias(subject, names, raw)?,
        "bar" => Kind::Bar(bar(subject, raw)?),
        other => {
            let problem = format!(
                "'{other}' is none of: container, reserved, mmio, ram, rom, rom-device, \
                 device-ram, private-mmio, alias, bar"
            );
            return Err(subject.wrong("kind", raw.kind.span(), problem));
        }
    };
    let word = format!("kind '{}'", raw.kind.as_ref());
    if !matches!(kind, Kind::Mmio(_) | Kind::Bar(_)) {
        subject.refuse(("device", &raw.device), &word)?;
    }
    if !matches!(kind, Kind::Ram(_)) {
        subject.refuse(("backing", &raw.backing), &word)?;
    }
    if !matches!(kind, Kind::Alias { .. }) {
        subject.refuse(("target", &raw.target), &word)?;
        subject.refuse(("offset", &raw.offset), &word)?;
    }
    if !matches!(kind, Kind::Bar(_)) {
        subject.refuse(("msix-table", &raw.msix_table), &word)?;
        subject.refuse(("msix-pba", &raw.msix_pba), &word)?;
        subject.refuse(("private", &raw.private), &word)?;
        subject.refuse(("shared", &raw.shared), &word)?;
        subject.refuse(("bar", &raw.bar), &word)?;
        subject.refuse(("tdi", &raw.tdi), &word)?;
        subject.refuse(("mmap", &raw.mmap), &word)?;
    }
    Ok(kind)
}

fn device(subject: &Subject<'_>, raw: &RawRegion) -> Result<DeviceKind, MachineError> {
    let words = [
        ("edu", DeviceKind::Edu),
        ("registers", DeviceKind::Registers),
        ("counter", DeviceKind::Counter),
    ];
    let device = subject.need(("device", &raw.device), "who answers?")?;
    subject.word("device", device, &words)
}

fn backing(subject: &Subject<'_>, raw: &RawRegion) -> Result<Backing, MachineError> {
    let words = [
        ("host", Backing::Host),
        ("guest-memfd", Backing::GuestMemfd),
        ("private", Backing::Private),
    ];
    match &raw.backing {
        Some(backing) => subject.word("backing", backing, &words),
        None => Ok(Backing::Host),
    }
}

fn alias(subject: &Subject<'_>, names: &Names<'_>, raw: &RawRegion) -> Result<Kind, MachineError> {
    let target = subject.need(("target", &raw.target), "a window onto which region?")?;
    let offset = match &raw.offset {
        Some(offset) => subject.number("offset", offset, |repeat| repeat.stride)?,
        None => 0,
    };
    Ok(Kind::Alias {
        target: names.find(subject, "target", target)?,
        offset,
    })
}

fn bar(subject: &Subject<'_>, raw: &RawRegion) -> Result<Bar, MachineError> {
    let one = |name, part: &Option<Spanned<RawSpan>>| match part {
        Some(part) => subject.part(name, part.as_ref()).map(Some),
        None => Ok(None),
    };
    let many = |name, parts: &Option<Spanned<Vec<RawSpan>>>| {
        let parts = parts.iter().flat_map(|parts| parts.as_ref());
        parts
            .map(|part| subject.part(name, part))
            .collect::<Result<Vec<_>, _>>()
    };
    let assigned = assigned(subject, raw)?;
    Ok(Bar {
        assigned,
        tdi: tdi_bar::tdi(subject, raw)?,
        unmapped: raw.mmap.as_ref().is_some_and(|mmap| !mmap.as_ref()),
        msix_table: one("msix-table", &raw.msix_table)?,
        msix_pba: one("msix-pba", &raw.msix_pba)?,
        private: many("private", &raw.private)?,
        shared: many("shared", &raw.shared)?,
    })
}

/// The device that the BAR belongs to, if it is a real one.
fn assigned(subject: &Subject<'_>, raw: &RawRegion) -> Result<Option<AssignedBar>, MachineError> {
    let Some(device) = &raw.device else {
        if raw.tdi.is_none() {
            subject.refuse(("bar", &raw.bar), "a bar of no 'device' and no 'tdi'")?;
        }
        return Ok(None);
    };
    subject.refuse(("init", &raw.init), "a real device's bar")?;
    let number = subject.need(("bar", &raw.bar), "which BAR of the device?")?;
    let wrong_bar =
        |e: vfio_private::InputError| subject.wrong("bar", number.span(), e.to_string());
    Ok(Some(AssignedBar {
        device: DeviceName::from_str(&subject.numbered(device.as_ref()))
            .map_err(|e| subject.wrong("device", device.span(), e.to_string()))?,
        bar: BarIndex::new(*number.as_ref()).map_err(wrong_bar)?,
    }))
}

/// How many pieces vfio-private cuts the BAR into. A BAR that it cannot cut is an
/// error here already, with its line in the file.
fn pieces(
    subject: &Subject<'_>,
    raw: &RawRegion,
    bar: &Bar,
    size: u128,
) -> Result<u64, MachineError> {
    match bar_pieces::pieces(bar, size, None) {
        Ok(pieces) => Ok(pieces.len() as u64),
        Err(problem) => Err(subject.wrong("kind", raw.kind.span(), problem)),
    }
}

fn size(subject: &Subject<'_>, kind: &Kind, raw: &RawRegion) -> Result<u128, MachineError> {
    let field = subject.need(("size", &raw.size), "how many bytes?")?;
    let Number(size) = *field.as_ref();
    let wrong = |problem: &str| Err(subject.wrong("size", field.span(), problem.to_string()));
    let has_bytes = !matches!(
        kind,
        Kind::Container | Kind::Reserved | Kind::Mmio(_) | Kind::Alias { .. }
    );
    match size {
        0 => wrong("a region has at least one byte"),
        n if has_bytes && n > MAX_MEMORY => wrong("memory is at most 4 TiB large"),
        n if has_bytes && n % u128::from(PAGE_SIZE) != 0 => {
            wrong("memory is a multiple of 4096 bytes large")
        }
        n => Ok(n),
    }
}

fn init(
    subject: &Subject<'_>,
    kind: &Kind,
    size: u128,
    raw: &RawRegion,
) -> Result<Vec<Init>, MachineError> {
    if matches!(
        kind,
        Kind::Container | Kind::Reserved | Kind::Mmio(_) | Kind::Alias { .. }
    ) {
        subject.refuse(("init", &raw.init), "a region that has no memory")?;
    }
    let inits = raw.init.iter().flat_map(|inits| inits.as_ref());
    let checked = inits.map(|init| {
        let width = subject.width(&init.size, 8)?;
        let at = subject.fixed("init", &init.at)?;
        if u128::from(at) + width as u128 > size {
            let problem = format!("offset {at:#x} is not inside the region");
            return Err(subject.wrong("init", init.at.span(), problem));
        }
        Ok(Init {
            at,
            size: width,
            value: subject.value("init", &init.value, width)?,
        })
    });
    checked.collect()
}
