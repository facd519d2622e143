// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A real VM with vCPU threads, whose memslots follow a memory model.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use kvm_slots::vcpu_gate::{GatedVcpu, RunOutcome, VcpuGate};
use kvm_slots::{AbiProfile, KvmVm, SlotListener, SlotRules, Slots, Vm};
use memmap2::{MmapMut, MmapRaw};
use memory_model::{
    AccessDirection, FlatView, MemoryModel, Region, RegionId, Responder, SpaceId, ViewReader,
};

use super::code::{self, NOTHING, PAGES, WORDS, Word};
use super::faulty::FaultyVm;
use crate::check::{at, same};
use crate::subject::host_page_size;
use crate::vcpu::{Processor, TABLES_SIZE, compile, lay_out};

const TABLES: u64 = 0;
const CODE: u64 = 0x3000;
/// The number of commits, and the allowed answers of each page.
pub(super) const CONTROL: u64 = 0x4000;
/// A line for each vCPU.
const LINES: u64 = 0x5000;
const LINE: u64 = 0x200;
/// The size of the vCPUs' own memory. In whole pages of the host, it may be more.
const OWN_SIZE: u64 = 0x8000;
/// An address without memory. A vCPU stores there when it has found a wrong answer.
const WRONG: u64 = 0x10_0000;
/// The memory that changes.
pub(super) const MEMORY: u64 = 0x20_0000;
/// Slots that are not in the model: the guest's own memory, and one that blocks
/// others.
const OWN_SLOT: u16 = 0;
const IN_THE_WAY: u16 = 1;

/// A mapping that the guest may access at any time. This process accesses
/// aligned words of it by atomics.
#[derive(Debug)]
pub(super) struct Words(MmapRaw);

impl Words {
    /// A mapping that starts with these bytes.
    pub(super) fn new(bytes: &[u8]) -> Result<Arc<Self>, String> {
        let mut map = MmapMut::map_anon(bytes.len()).map_err(at("memory"))?;
        map.copy_from_slice(bytes);
        Ok(Arc::new(Self(map.into())))
    }

    pub(super) fn address(&self) -> u64 {
        self.0.as_mut_ptr().expose_provenance() as u64
    }

    pub(super) fn size(&self) -> u64 {
        self.0.len() as u64
    }

    /// The word at an offset that is a multiple of 8.
    pub(super) fn word(&self, offset: u64) -> &AtomicU64 {
        let offset = usize::try_from(offset).expect("an offset in memory");
        assert!(offset % 8 == 0 && offset + 8 <= self.0.len());
        // SAFETY: the word is inside the mapping, which lives as long as `self`,
        // and it is aligned. The guest accesses whole words, too.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().add(offset).cast()) }
    }
}

/// Answers trapped accesses to a region: a word for each vCPU.
#[derive(Debug, Default)]
pub(super) struct Device(Mutex<[u64; 8]>);

impl Device {
    fn words(&self) -> std::sync::MutexGuard<'_, [u64; 8]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of a region of the model.
#[derive(Clone, Debug, Default)]
pub(super) struct Handle {
    /// The identity of its first page. Later pages count up.
    pub(super) thing: u64,
    pub(super) memory: Option<Arc<Words>>,
    pub(super) device: Option<Arc<Device>>,
}

/// The VM with its model. vCPUs are created on request.
pub(super) struct Machine {
    pub(super) model: MemoryModel<Handle>,
    pub(super) root: RegionId,
    pub(super) space: SpaceId,
    pub(super) vm: FaultyVm,
    pub(super) gate: VcpuGate,
    pub(super) own: Arc<Words>,
    /// The size of the pages that change: the host's.
    pub(super) page_size: u64,
    kvm_vm: KvmVm,
    processor: Processor,
    /// The memory of slots that are not in the model.
    kept: Vec<Arc<Words>>,
}

impl Machine {
    pub(super) fn new() -> Result<Self, String> {
        let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
        let (processor, kvm_vm) = Processor::with_vm(&kvm)?;
        let page_size = host_page_size();
        let own = Words::new(&own_memory(page_size)?)?;
        let vm = FaultyVm::new(kvm_vm.clone());
        let gate = VcpuGate::new().map_err(at("a gate"))?;
        let rules = SlotRules::new().reserving(OWN_SLOT..=IN_THE_WAY);
        // SAFETY: the VM is new, and `FaultyVm` refuses a call or passes it on.
        // Slots that are made elsewhere have the numbers that `rules` reserves.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) }.with_rules(rules);
        let slots = SlotListener::new(slots, gate.clone());
        let mut model = MemoryModel::new();
        let mut change = model.transaction();
        let root = Region::container("memory", 1 << 64).with_handle(Handle::default());
        let root = change.add(root).map_err(at("a container"))?;
        change.commit().map_err(at("a container"))?;
        let space = model.add_space("memory", root).map_err(at("a space"))?;
        let added = model.add_listener(space, 0, Arc::new(slots));
        added.map_err(at("a listener"))?;
        let mut machine = Self {
            model,
            root,
            space,
            vm,
            gate,
            own: own.clone(),
            page_size,
            kvm_vm,
            processor,
            kept: Vec::new(),
        };
        machine.make_slot(OWN_SLOT, TABLES, own)?;
        Ok(machine)
    }

    /// Creates a slot that is not in the model. KVM refuses other slots there.
    pub(super) fn put_in_the_way(&mut self, gpa: u64) -> Result<(), String> {
        let page = vec![0; usize::try_from(self.page_size).map_err(at("a size"))?];
        self.make_slot(IN_THE_WAY, gpa, Words::new(&page)?)
    }

    fn make_slot(&mut self, slot: u16, gpa: u64, memory: Arc<Words>) -> Result<(), String> {
        let region = kvm_userspace_memory_region {
            slot: slot.into(),
            guest_phys_addr: gpa,
            memory_size: memory.size(),
            userspace_addr: memory.address(),
            ..Default::default()
        };
        self.kept.push(memory);
        // SAFETY: `kept` keeps the memory mapped, and this process accesses it
        // by atomics only. The slot's number is reserved in the model's rules.
        unsafe { self.kvm_vm.set_user_memory_region(&region) }.map_err(at("a slot"))
    }

    /// A vCPU that is about to start.
    pub(super) fn vcpu(&self, number: u64) -> Result<Vcpu, String> {
        let fd = self.kvm_vm.fd().create_vcpu(number).map_err(at("a vCPU"))?;
        self.own
            .word(line(number, Word::Number))
            .store(number, Ordering::Relaxed);
        let registers = [
            (code::LINE, LINES + number * LINE),
            (code::CONTROL, CONTROL),
            (code::MEMORY, MEMORY),
            (code::RANDOM, number),
        ];
        self.processor.start(&fd, TABLES, CODE, &registers)?;
        Ok(Vcpu {
            gated: self.gate.vcpu(fd).map_err(at("a gated vCPU"))?,
            reader: self.model.reader(self.space),
            own: self.own.clone(),
            page_size: self.page_size,
            number,
            exits: 0,
            direct: 0,
        })
    }

    /// The number of commits that have begun and ended.
    pub(super) fn number(&self) -> &AtomicU64 {
        self.own.word(CONTROL)
    }

    /// The allowed answers at a page.
    pub(super) fn may(&self, page: u64) -> &AtomicU64 {
        self.own.word(may_at(page))
    }

    /// The address of a page of the changing memory.
    pub(super) fn page(&self, page: u64) -> u64 {
        MEMORY + page * self.page_size
    }
}

/// The address at which the guest reads the allowed answers of a page.
pub(super) fn may_at(page: u64) -> u64 {
    CONTROL + 8 + 8 * page
}

/// The address of a word in a vCPU's line.
pub(super) fn line(number: u64, word: Word) -> u64 {
    LINES + number * LINE + u64::from(word.offset())
}

/// A vCPU and what its thread needs.
pub(super) struct Vcpu {
    gated: GatedVcpu,
    reader: ViewReader<Handle>,
    own: Arc<Words>,
    page_size: u64,
    pub(super) number: u64,
    /// The number of exits.
    pub(super) exits: u64,
    /// The number of exits at memory that the view calls direct.
    pub(super) direct: u64,
}

impl Vcpu {
    /// Runs until the gate is stopped or the guest finds a wrong answer.
    pub(super) fn run(&mut self) -> Result<(), String> {
        loop {
            let Self {
                gated,
                reader,
                page_size,
                ..
            } = self;
            let run = gated.run_with(|| reader.snapshot());
            let (outcome, view) = run.map_err(at("KVM_RUN"))?;
            let direct = match (outcome, view) {
                (RunOutcome::Exit(VcpuExit::MmioWrite(WRONG, _)), _) => return Err(self.wrong()),
                (RunOutcome::Exit(VcpuExit::MmioRead(gpa, data)), Some(view)) => {
                    let (value, direct) = load(&view, gpa, data.len(), *page_size);
                    let bytes = value.to_le_bytes();
                    data.copy_from_slice(&bytes[..data.len()]);
                    direct
                }
                (RunOutcome::Exit(VcpuExit::MmioWrite(gpa, data)), Some(view)) => {
                    let mut bytes = [0; 8];
                    bytes[..data.len()].copy_from_slice(data);
                    let value = u64::from_le_bytes(bytes);
                    store(&view, gpa, data.len(), value, *page_size)
                }
                (RunOutcome::Exit(other), _) => return Err(format!("it exits with {other:?}")),
                (RunOutcome::Stopped, _) => return Ok(()),
                (RunOutcome::Kicked | RunOutcome::Interrupted, _) => continue,
            };
            self.exits += 1;
            self.direct += u64::from(direct);
        }
    }

    /// The wrong answer that the guest found, if any.
    fn wrong(&self) -> String {
        let word = |word| {
            self.own
                .word(line(self.number, word))
                .load(Ordering::Relaxed)
        };
        format!(
            "vCPU {}: {:#x} answered at page {}, but only {:#x} may; commits {} to {}",
            self.number,
            word(Word::WrongThing),
            word(Word::WrongPage),
            word(Word::WrongMay),
            word(Word::WrongBefore),
            word(Word::WrongAfter),
        )
    }
}

/// The region that answers an access of one word.
fn responder(
    view: &FlatView<Handle>,
    gpa: u64,
    size: usize,
    direction: AccessDirection,
) -> Responder<'_, Handle> {
    let part = view.access_parts(gpa, size, direction).next();
    part.map_or(Responder::Nothing, |part| part.responder)
}

/// The value of a load at `gpa`, and whether the view calls it direct.
fn load(view: &FlatView<Handle>, gpa: u64, size: usize, page_size: u64) -> (u64, bool) {
    match responder(view, gpa, size, AccessDirection::Read) {
        Responder::Memory { run, offset } => {
            let memory = run.region().handle().memory.as_ref();
            let value = memory.map(|memory| memory.word(offset).load(Ordering::SeqCst));
            (value.unwrap_or(NOTHING), true)
        }
        Responder::Device { run, offset } => {
            let handle = run.region().handle();
            let value = match (&handle.device, device_word(offset, page_size)) {
                (Some(device), Some(word)) => device.words()[word],
                (Some(_), None) => handle.thing + offset / page_size,
                (None, _) => NOTHING,
            };
            (value, false)
        }
        _ => (NOTHING, false),
    }
}

/// Stores at `gpa`. Returns whether the view calls it direct.
fn store(view: &FlatView<Handle>, gpa: u64, size: usize, value: u64, page_size: u64) -> bool {
    match responder(view, gpa, size, AccessDirection::Write) {
        Responder::Memory { run, offset } => {
            if let Some(memory) = &run.region().handle().memory {
                memory.word(offset).store(value, Ordering::SeqCst);
            }
            true
        }
        Responder::Device { run, offset } => {
            let device = run.region().handle().device.as_ref();
            if let Some((device, word)) = device.zip(device_word(offset, page_size)) {
                device.words()[word] = value;
            }
            false
        }
        // The memory is read-only, or there is none.
        _ => false,
    }
}

/// The index of the device's word at an offset in one of its pages.
fn device_word(offset: u64, page_size: u64) -> Option<usize> {
    let word = (offset % page_size).checked_sub(WORDS.into())? / 8;
    usize::try_from(word).ok().filter(|word| *word < 8)
}

/// Page tables and instructions.
fn own_memory(page_size: u64) -> Result<Vec<u8>, String> {
    const { assert!(TABLES_SIZE <= CODE && CONTROL + 8 + 8 * PAGES <= LINES) };
    let size = OWN_SIZE.next_multiple_of(page_size);
    let mut memory = vec![0; usize::try_from(size).map_err(at("a size"))?];
    let code = compile(&code::program(page_size, WRONG))?;
    same(
        "room for the code",
        code.bytes().len() as u64 <= CONTROL - CODE,
        true,
    )?;
    lay_out(&mut memory, TABLES, [(CODE, code.bytes())]);
    Ok(memory)
}
