// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pastes with one changed line at a time: marked in each way, removed, or duplicated.

use bar_report::{BarReport, BarReportError, Reader, RegionList, ReportOptions};
use support::changed_paste::{changed, changes, contradiction};
use support::devices::{NIC, NVME, dump, nvme_config};
use vfio_private::PageSize;

fn ask(text: &str, device: Option<&str>) -> Result<BarReport, BarReportError> {
    let device = device.map(|device| device.parse().unwrap());
    let device = Reader::new().bytes("lspci.txt", text.as_bytes(), device)?;
    let bars = device.bars(&RegionList::unknown())?;
    bars.report(&ReportOptions::new(PageSize::Size4K))
}

/// Changes each line of a text in each way. Returns the numbers of changed texts that were accepted
/// and rejected.
fn change_each_line(text: &str, device: Option<&str>) -> (usize, usize) {
    let before = ask(text, device).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (mut answered, mut refused) = (0, 0);
    for (at, line) in text.lines().enumerate() {
        for change in changes() {
            let changed = changed(text, at, change);
            let Ok(after) = ask(&changed, device) else {
                refused += 1;
                continue;
            };
            answered += 1;
            if let Some(what) = contradiction(&before, &after, line, change) {
                panic!("line {}, {change:?}: {what}\n{changed}", at + 1);
            }
        }
    }
    (answered, refused)
}

#[test]
fn no_change_to_a_line_turns_a_fact_into_its_opposite() {
    let twice = format!("{NVME}\n{NVME}");
    let dumped = format!("{NVME}{}", dump(&nvme_config(256)));
    let header = NVME.lines().next().unwrap();
    let only_dumped = format!(
        "{header}\n\tRegion 0: Memory at f7c00000 [size=16K]\n{}",
        dump(&nvme_config(256))
    );
    let encoded = NVME.replace('=', "=3D").replace('\t', "=09");
    let broken = encoded.replace("[size=3D16K]", "\n[size=3D1=\n6K]");
    let quoted: String = NVME.lines().map(|line| format!("> {line}\n")).collect();
    let no_capabilities = "00:00.0 Host bridge: X\n\tControl: I/O- Mem+\n\tStatus: Cap- 66MHz-\n\
                           \tRegion 0: Memory at f0000000 (32-bit, prefetchable) [size=64M]\n\
                           \tRegion 2: Memory at f8000000 (32-bit, prefetchable) [size=64K]\n\n";
    let omitted = NVME
        .replace("\tCapabilities: [40]", "\t[...]\n\tCapabilities: [40]")
        .replace(
            "(64-bit, non-prefetchable) [size=16K]\n",
            "(64-bit, non-prefetchable) [size=16K]\n\
                 \tRegion 5: I/O ports at <ignored> [disabled]\n",
        );
    for text in [
        NVME,
        NIC,
        &twice,
        &dumped,
        &only_dumped,
        &encoded,
        &broken,
        &quoted,
        HOST_ADAPTER,
        no_capabilities,
        &omitted,
        ENHANCED,
    ] {
        let (answered, refused) = change_each_line(text, None);
        assert!(answered > refused / 4, "{answered} answers\n{text}");
        assert!(refused > 0, "{text}");
    }
}

#[test]
fn no_change_to_a_line_mixes_two_devices() {
    let one_behind_the_other = format!("{NIC}\n{NVME}\n{HOST_ADAPTER}");
    for device in ["03:00.0", "01:00.0", "00:1f.2"] {
        change_each_line(&one_behind_the_other, Some(device));
    }
    let host_adapter_in_front = format!("{HOST_ADAPTER}{NVME}");
    for device in ["00:1f.2", "01:00.0"] {
        change_each_line(&host_adapter_in_front, Some(device));
    }
    let paths = include_str!("../cases/path-headers.txt");
    for device in ["01:00.0", "02:00.0"] {
        change_each_line(paths, Some(device));
    }
}

/// A device without MSI-X, with six BARs.
const HOST_ADAPTER: &str = "\
00:1f.2 SATA controller: Example Corp AHCI Controller (rev 05) (prog-if 01 [AHCI 1.0])
\tSubsystem: Example Corp AHCI Controller
\tControl: I/O+ Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR- FastB2B- DisINTx+
\tStatus: Cap+ 66MHz+ UDF- FastB2B+ ParErr- DEVSEL=medium >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-
\tLatency: 0
\tInterrupt: pin B routed to IRQ 27
\tRegion 0: I/O ports at f0b0 [size=8]
\tRegion 1: I/O ports at f0a0 [size=4]
\tRegion 2: I/O ports at f090 [size=8]
\tRegion 3: I/O ports at f080 [size=4]
\tRegion 4: I/O ports at f060 [size=32]
\tRegion 5: Memory at f7d1a000 (32-bit, non-prefetchable) [size=2K]
\tCapabilities: [80] MSI: Enable+ Count=1/1 Maskable- 64bit-
\t\tAddress: fee0f00c  Data: 41a2
\tCapabilities: [70] Power Management version 3
\t\tFlags: PMEClk- DSI- D1- D2- AuxCurrent=0mA PME(D0-,D1-,D2-,D3hot+,D3cold-)
\t\tStatus: D0 NoSoftRst+ PME-Enable- DSel=0 DScale=0 PME-
\tKernel driver in use: ahci

";

/// A device whose BARs have entries in the Enhanced Allocation capability.
const ENHANCED: &str = "\
0002:01:00.0 Ethernet controller: Example Corp Network Interface (rev 08)
\tControl: I/O- Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR- FastB2B- DisINTx-
\tStatus: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-
\tRegion 0: Memory at 843000000000 (32-bit, non-prefetchable) [enhanced] [size=1G]
\tRegion 4: Memory at 843060000000 (32-bit, non-prefetchable) [enhanced] [size=1M]
\tCapabilities: [80] MSI-X: Enable+ Count=10 Masked-
\t\tVector table: BAR=4 offset=00000000
\t\tPBA: BAR=4 offset=000f0000
\tCapabilities: [98] Enhanced Allocation (EA): NumEntries=2
\t\tEntry 0: Enable+ Writable- EntrySize=4
\t\t\t BAR Equivalent Indicator: BAR 0
\t\t\t PrimaryProperties: memory space, non-prefetchable
\t\tEntry 1: Enable+ Writable- EntrySize=4
\t\t\t BAR Equivalent Indicator: BAR 4
\t\t\t PrimaryProperties: memory space, non-prefetchable
\tCapabilities: [180 v1] Single Root I/O Virtualization (SR-IOV)
\t\tVF offset: 1, stride: 1, Device ID: 0011
\t\tRegion 0: Memory at 0008430a00000000 (64-bit, non-prefetchable)
\t\tRegion 4: Memory at 0008430e00000000 (64-bit, non-prefetchable)
";
