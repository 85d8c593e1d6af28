/* SPDX-License-Identifier: Apache-2.0
   Says what it was given: by which protocol, the command line, the initrd as text, where ACPI begins, the memory map. */
#include "payload.h"

static uint32_t at32(uint64_t at) { return *(const uint32_t*)at; }
static uint64_t at64(uint64_t at) { return *(const uint64_t*)at; }

static void tell_memory(uint64_t at, uint64_t entries, uint64_t entry_size) {
  for (uint64_t i = 0; i < entries; i++, at += entry_size)
    if (at32(at + 16) == 1) {
      say("ram ");
      say_number(at64(at));
      tell("", at64(at + 8));
    }
}

/* ACPI 6.4, section 5.2.5.3: eight letters, and 20 bytes whose sum is 0. */
static void tell_acpi(uint64_t at) {
  uint8_t sum = 0;
  for (unsigned i = 0; i < 20; i++)
    sum = (uint8_t)(sum + ((const uint8_t*)at)[i]);
  say("acpi ");
  say_bytes((const char*)at, 8);
  tell("sum", sum);
}

void payload_main(uint64_t told, int by_pvh) {
  say(by_pvh ? "entered by PVH\n" : "entered by the 64-bit protocol\n");
  tell(by_pvh ? "magic" : "header", at32(told + (by_pvh ? 0 : 0x202)));
  say("command line: ");
  say((const char*)(by_pvh ? at64(told + 24) : at32(told + 0x228)));
  say("\ninitrd: ");
  if (!by_pvh)
    say_bytes((const char*)(uint64_t)at32(told + 0x218), at32(told + 0x21c));
  else if (at32(told + 12) == 1)
    say_bytes((const char*)at64(at64(told + 16)), at64(at64(told + 16) + 8));
  say("\n");
  tell_acpi(at64(told + (by_pvh ? 32 : 0x70)));
  if (by_pvh)
    tell_memory(at64(told + 40), at32(told + 48), 24);
  else
    tell_memory(told + 0x2d0, *(const uint8_t*)(told + 0x1e8), 20);
  say("done\n");
}
