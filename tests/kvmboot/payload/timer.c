/* SPDX-License-Identifier: Apache-2.0
   Counts ticks of the PIT, first through the PIC, then through the I/O APIC and the local one. */
#include "payload.h"

static volatile unsigned ticks;

__attribute__((interrupt)) static void on_pic(void* frame) {
  (void)frame;
  ticks++;
  end_pic_interrupt();
}

__attribute__((interrupt)) static void on_apic(void* frame) {
  (void)frame;
  ticks++;
  end_apic_interrupt();
}

static void count(const char* way) {
  ticks = 0;
  for (unsigned i = 0; i < 3; i++)
    wait_change(&ticks, i);
  tell(way, ticks);
}

/* Intel 82093AA data sheet, section 3.2.4. Both pins where the PIT may be: 0, and 2 where ACPI's tables say so. */
static void route(uint32_t vector_and_mask) {
  const Registers ioapic = (Registers)0xfec00000;
  for (uint32_t pin = 0; pin <= 2; pin += 2) {
    put32(ioapic, 0x11 + pin * 2);
    put32(ioapic + 0x10, apic_number() << 24);
    put32(ioapic, 0x10 + pin * 2);
    put32(ioapic + 0x10, vector_and_mask);
  }
}

void payload_main(uint64_t told, int by_pvh) {
  (void)told;
  (void)by_pvh;
  load_gates();
  set_gate(0x20, on_pic);
  set_gate(0x40, on_apic);
  set_pics(1);
  out8(0x43, 0x34); /* counter 0, both bytes, rate generator: 100 a second */
  out8(0x40, 11932 & 0xff);
  out8(0x40, 11932 >> 8);
  count("ticks by PIC");
  set_pics(0);
  enable_apic();
  route(0x40);
  count("ticks by APIC");
  route(0x10000);
  say("done\n");
}
