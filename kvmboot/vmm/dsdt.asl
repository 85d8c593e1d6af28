// SPDX-License-Identifier: Apache-2.0
// The built-in machine's buses and board as its guests are told (ACPI 6.4, chapter 19), where pc.cc and pci.cc have
// them. acpi.cc adds the processors, and moves one window when there is much memory.
DefinitionBlock ("", "DSDT", 1, "KVMPRT", "KVMPORT ", 1)
{
    Name (\_S5, Package () { Zero, Zero }) // see PowerManagement

    Device (\_SB.PCI0)
    {
        Name (_HID, EisaId ("PNP0A03"))
        Name (_UID, Zero)
        Name (_CRS, ResourceTemplate ()
        {
            WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
            IO (Decode16, 0xCF8, 0xCF8, 1, 8)
            WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0, 0xCF7, 0, 0xCF8)
            WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0xD00, 0xFFFF, 0, 0xF300)
            DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                         0, 0xA0000, 0xBFFFF, 0, 0x20000)
            // The window that acpi.cc moves: where SeaBIOS and OVMF put BARs; RAM ends below.
            DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                         0, 0x80000000, 0xFEBFFFFF, 0, 0x7EC00000)
        })

        // Which link a pin of a slot is wired to, as PciHost::interrupt_of() has it: slots from 1 on, four pins each.
        Method (ROW, 1, Serialized)
        {
            Local0 = ((Arg0 >> 2) + Arg0) & 3
            If (Local0 == 0) { Local1 = Package () { Zero, Zero, \_SB.PCI0.ISA.LNKA, Zero } }
            If (Local0 == 1) { Local1 = Package () { Zero, Zero, \_SB.PCI0.ISA.LNKB, Zero } }
            If (Local0 == 2) { Local1 = Package () { Zero, Zero, \_SB.PCI0.ISA.LNKC, Zero } }
            If (Local0 == 3) { Local1 = Package () { Zero, Zero, \_SB.PCI0.ISA.LNKD, Zero } }
            Local1[0] = (((Arg0 >> 2) + 1) << 16) | 0xFFFF
            Local1[1] = Arg0 & 3
            Return (Local1)
        }
        Method (_PRT)
        {
            Local0 = Package (124) {}
            Local1 = Zero
            While (Local1 < 124) { Local0[Local1] = ROW (Local1) Local1++ }
            Return (Local0)
        }

        // PIIX3 with its router's registers (Intel 82371SB data sheet, section 2.2.4), and what hangs on it.
        Device (ISA)
        {
            Name (_ADR, 0x00010000)
            OperationRegion (PIRQ, PCI_Config, 0x60, 4)
            Field (PIRQ, ByteAcc, NoLock, Preserve) { PRQA, 8, PRQB, 8, PRQC, 8, PRQD, 8 }

            // Links, one for each of the router's four inputs.
            //
            // Why links, not fixed numbers in _PRT: firmware sets the router as it likes (SeaBIOS to 10, 10, 11, 11;
            // some OVMF to 11, 11, 10, 10). A link reads what it is set to and can set it, which is right after
            // either, and with the 8259s and the IOAPIC alike, for KVM gives interrupt N to pin N of both. It is also
            // what Windows and Linux know from the board that this one resembles. The MADT tells the same level and
            // polarity, and the interrupts that PIIX3's router may raise on a PC.
            Name (POSS, ResourceTemplate () { Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { 10, 11 } })
            Method (STAT, 1) { If (Arg0 & 0x80) { Return (0x09) } Return (0x0B) }
            Name (NOW, ResourceTemplate () { Interrupt (ResourceConsumer, Level, ActiveHigh, Shared,,, IRQ) { 0 } })
            CreateDWordField (NOW, IRQ._INT, NOWI)
            Method (CURR, 1) { NOWI = Arg0 & 0x0F Return (NOW) }
            Method (WISH, 1, Serialized) { CreateDWordField (Arg0, 5, LINE) Return (LINE) }
            Device (LNKA)
            {
                Name (_HID, EisaId ("PNP0C0F"))
                Name (_UID, 0)
                Method (_PRS) { Return (POSS) }
                Method (_STA) { Return (STAT (PRQA)) }
                Method (_DIS) { PRQA = 0x80 }
                Method (_CRS) { Return (CURR (PRQA)) }
                Method (_SRS, 1) { PRQA = WISH (Arg0) }
            }
            Device (LNKB)
            {
                Name (_HID, EisaId ("PNP0C0F"))
                Name (_UID, 1)
                Method (_PRS) { Return (POSS) }
                Method (_STA) { Return (STAT (PRQB)) }
                Method (_DIS) { PRQB = 0x80 }
                Method (_CRS) { Return (CURR (PRQB)) }
                Method (_SRS, 1) { PRQB = WISH (Arg0) }
            }
            Device (LNKC)
            {
                Name (_HID, EisaId ("PNP0C0F"))
                Name (_UID, 2)
                Method (_PRS) { Return (POSS) }
                Method (_STA) { Return (STAT (PRQC)) }
                Method (_DIS) { PRQC = 0x80 }
                Method (_CRS) { Return (CURR (PRQC)) }
                Method (_SRS, 1) { PRQC = WISH (Arg0) }
            }
            Device (LNKD)
            {
                Name (_HID, EisaId ("PNP0C0F"))
                Name (_UID, 3)
                Method (_PRS) { Return (POSS) }
                Method (_STA) { Return (STAT (PRQD)) }
                Method (_DIS) { PRQD = 0x80 }
                Method (_CRS) { Return (CURR (PRQD)) }
                Method (_SRS, 1) { PRQD = WISH (Arg0) }
            }

            Device (KBD)
            {
                Name (_HID, EisaId ("PNP0303"))
                Name (_CRS, ResourceTemplate ()
                    { IO (Decode16, 0x60, 0x60, 1, 1) IO (Decode16, 0x64, 0x64, 1, 1) IRQNoFlags () { 1 } })
            }
            Device (RTC)
            {
                Name (_HID, EisaId ("PNP0B00"))
                Name (_CRS, ResourceTemplate () { IO (Decode16, 0x70, 0x70, 1, 2) IRQNoFlags () { 8 } })
            }
            Device (COM1)
            {
                Name (_HID, EisaId ("PNP0501"))
                Name (_UID, 1)
                Name (_CRS, ResourceTemplate () { IO (Decode16, 0x3F8, 0x3F8, 1, 8) IRQNoFlags () { 4 } })
            }
        }
    }
}
