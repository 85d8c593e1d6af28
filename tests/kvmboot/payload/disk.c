/* SPDX-License-Identifier: Apache-2.0
   A virtio disk's driver (virtio 1.2, sections 3.1, 4.1, 5.2) that follows the specification and trusts nothing of our
   own device. The command line says how requests are waited for: "polled", "intx" or "msix". */
#include "payload.h"

enum { queue_size = 8, sector_size = 512, sector_read = 1, sector_written = 5 };

static struct {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
} descriptors[queue_size] __attribute__((aligned(4096)));
static struct {
  uint16_t flags, index, ring[queue_size];
} available __attribute__((aligned(4096)));
static volatile struct {
  uint16_t flags, index;
  struct {
    uint32_t id, length;
  } ring[queue_size];
} used __attribute__((aligned(4096)));
static struct {
  uint32_t type, reserved;
  uint64_t sector;
} header;
static volatile uint8_t status;
static uint8_t data[sector_size];

static uint32_t slot;
static Registers common, isr, config, doorbell;
static volatile unsigned interrupts;
static enum { polled, intx, msix } way;

static uint32_t pci_get(uint32_t offset) {
  out32(0xcf8, 0x80000000U | slot << 11 | (offset & 0xfc));
  return in32(0xcfc) >> (offset & 3) * 8;
}
static void pci_put(uint32_t offset, uint32_t value) {
  out32(0xcf8, 0x80000000U | slot << 11 | offset);
  out32(0xcfc, value);
}
static Registers bar(uint32_t number) {
  const uint32_t low = pci_get(0x10 + number * 4);
  const uint64_t high = (low & 6) == 4 ? pci_get(0x14 + number * 4) : 0;
  return (Registers)(high << 32 | (low & ~0xfU));
}

static uint16_t common16(uint32_t offset) { return *(volatile uint16_t*)(common + offset); }
static void put_common16(uint32_t offset, uint16_t v) { *(volatile uint16_t*)(common + offset) = v; }
static void put_common64(uint32_t offset, const volatile void* at) {
  put32(common + offset, (uint32_t)(uint64_t)at);
  put32(common + offset + 4, (uint32_t)((uint64_t)at >> 32));
}

__attribute__((interrupt)) static void on_intx(void* frame) {
  (void)frame;
  if ((*isr & 1) != 0) /* reading it takes the line back */
    interrupts++;
  end_pic_interrupt();
}

__attribute__((interrupt)) static void on_msix(void* frame) {
  (void)frame;
  interrupts++;
  end_apic_interrupt();
}

static int find_disk(void) {
  for (slot = 0; slot < 32; slot++)
    if (pci_get(0) == 0x10421af4)
      return 1;
  return 0;
}

/* Section 4.1.4: the capabilities say where everything is. Gives the MSI-X capability's place, 0: there is none. */
static uint32_t find_registers(uint32_t* multiplier) {
  uint32_t msix_at = 0;
  pci_put(4, (pci_get(4) & 0xffff) | 6); /* memory, bus master */
  for (uint32_t at = pci_get(0x34) & 0xfc; at != 0; at = pci_get(at + 1) & 0xfc) {
    const uint32_t id = pci_get(at) & 0xff, type = pci_get(at + 3) & 0xff;
    if (id == 0x11)
      msix_at = at;
    if (id != 0x09 || type < 1 || type > 4)
      continue;
    const Registers place = bar(pci_get(at + 4) & 0xff) + pci_get(at + 8);
    if (type == 1)
      common = place;
    if (type == 2) {
      doorbell = place;
      *multiplier = pci_get(at + 16);
    }
    if (type == 3)
      isr = place;
    if (type == 4)
      config = place;
  }
  return msix_at;
}

static void set_intx(void) {
  const uint32_t irq = pci_get(0x3c) & 0x0f;
  out8(0x4d0, 0); /* ELCR: the PCI interrupts are level-triggered */
  out8(0x4d1, 0x0c);
  set_gate(0x20 + irq, on_intx);
  set_pics((uint16_t)(1U << irq | 1U << 2));
}

/* PCI Local Bus Specification 3.0, section 6.8.2. */
static void set_msix(uint32_t capability) {
  const uint32_t vector = 0x51, place = pci_get(capability + 4);
  const Registers entry = bar(place & 7) + (place & ~7U);
  enable_apic();
  set_gate(vector, on_msix);
  put32(entry, 0xfee00000U | apic_number() << 12);
  put32(entry + 4, 0);
  put32(entry + 8, vector);
  put32(entry + 12, 0);
  pci_put(capability, (pci_get(capability) & 0x3fffffff) | 0x80000000U);
}

/* Section 3.1.1. */
static int start_disk(uint32_t multiplier) {
  common[0x14] = 0;
  while (common[0x14] != 0) {
  }
  common[0x14] = 1;
  common[0x14] = 3;
  put32(common + 0x00, 1);
  if ((get32(common + 0x04) & 1) == 0) /* VERSION_1 */
    return 0;
  put32(common + 0x08, 0);
  put32(common + 0x0c, 0);
  put32(common + 0x08, 1);
  put32(common + 0x0c, 1);
  common[0x14] = 11;
  if ((common[0x14] & 8) == 0)
    return 0;
  put_common16(0x16, 0);
  if (common16(0x18) < queue_size)
    return 0;
  put_common16(0x18, queue_size);
  if (way == msix) {
    put_common16(0x1a, 0);
    if (common16(0x1a) != 0)
      return 0;
  }
  put_common64(0x20, descriptors);
  put_common64(0x28, &available);
  put_common64(0x30, &used);
  doorbell += common16(0x1e) * multiplier;
  put_common16(0x1c, 1);
  common[0x14] = 15;
  return 1;
}

/* One request on `data`; its status. */
static uint8_t request(uint32_t type, uint64_t sector) {
  const uint16_t before = used.index;
  const unsigned interrupts_before = interrupts;
  header.type = type;
  header.sector = sector;
  status = 0xff;
  descriptors[0].address = (uint64_t)&header;
  descriptors[0].length = 16;
  descriptors[0].flags = 1; /* NEXT */
  descriptors[0].next = 1;
  descriptors[1].address = (uint64_t)data;
  descriptors[1].length = sector_size;
  descriptors[1].flags = type == 0 ? 3 : 1; /* a read's data is written by the device */
  descriptors[1].next = 2;
  descriptors[2].address = (uint64_t)&status;
  descriptors[2].length = 1;
  descriptors[2].flags = 2;
  available.flags = way == polled ? 1 : 0; /* NO_INTERRUPT */
  available.ring[available.index % queue_size] = 0;
  __asm__ volatile("" ::: "memory");
  available.index++;
  __asm__ volatile("" ::: "memory");
  *(volatile uint16_t*)doorbell = 0;
  if (way == polled)
    while (used.index == before)
      __asm__ volatile("pause" ::: "memory");
  else
    wait_change(&interrupts, interrupts_before);
  __asm__ volatile("" ::: "memory");
  return used.index == (uint16_t)(before + 1) ? status : 0xfe;
}

static uint8_t pattern(unsigned i, int inverted) { return (uint8_t)((i * 7 + 3) ^ (inverted ? 0xff : 0)); }

static int holds(int inverted) {
  for (unsigned i = 0; i < sector_size; i++)
    if (data[i] != pattern(i, inverted))
      return 0;
  return 1;
}

static int word_is(const char* text, const char* word) {
  while (*word != 0)
    if (*text++ != *word++)
      return 0;
  return 1;
}

void payload_main(uint64_t told, int by_pvh) {
  (void)by_pvh;
  uint32_t multiplier = 0;
  const char* command_line = (const char*)*(const uint64_t*)(told + 24);
  way = word_is(command_line, "msix") ? msix : word_is(command_line, "intx") ? intx : polled;
  load_gates();
  set_pics(0);
  if (!find_disk()) {
    say("no disk\n");
    return;
  }
  const uint32_t msix_at = find_registers(&multiplier);
  if (way == intx)
    set_intx();
  if (way == msix) {
    if (msix_at == 0) {
      say("no MSI-X\n");
      return;
    }
    set_msix(msix_at);
  }
  if (!start_disk(multiplier)) {
    say("the device does not start\n");
    return;
  }
  const uint64_t sectors = get32(config) | (uint64_t)get32(config + 4) << 32;
  tell("sectors", sectors);
  tell("read", request(0, sector_read));
  tell("as expected", (uint64_t)holds(0));
  for (unsigned i = 0; i < sector_size; i++)
    data[i] = pattern(i, 1);
  tell("write", request(1, sector_written));
  for (unsigned i = 0; i < sector_size; i++)
    data[i] = 0;
  tell("read back", request(0, sector_written));
  tell("as written", (uint64_t)holds(1));
  tell("past the end", request(0, sectors));
  tell("interrupts", interrupts);
  say("done\n");
}
