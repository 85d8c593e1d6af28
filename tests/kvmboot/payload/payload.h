/* SPDX-License-Identifier: Apache-2.0
   What the payloads share: ports, the serial console, interrupt gates, the old interrupt controllers and the local
   APIC. Freestanding: nothing is below. */
#pragma once

#include <stdint.h>

typedef volatile uint8_t* Registers;

static inline void out8(uint16_t port, uint8_t v) {
  __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void out32(uint16_t port, uint32_t v) {
  __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline uint8_t in8(uint16_t port) {
  uint8_t v;
  __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}
static inline uint32_t in32(uint16_t port) {
  uint32_t v;
  __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}
static inline uint32_t get32(Registers at) {
  return *(volatile uint32_t*)at;
}
static inline void put32(Registers at, uint32_t v) {
  *(volatile uint32_t*)at = v;
}

/* --- the console -------------------------------------------------------------------------------------------------- */

static inline void say_char(char c) {
  while ((in8(0x3fd) & 0x20) == 0) {
  }
  out8(0x3f8, (uint8_t)c);
}
static inline void say_bytes(const char* text, uint64_t length) {
  for (uint64_t i = 0; i < length; i++)
    say_char(text[i]);
}
static inline void say(const char* text) {
  while (*text != 0)
    say_char(*text++);
}
static inline void say_number(uint64_t n) {
  if (n >= 10)
    say_number(n / 10);
  say_char((char)('0' + n % 10));
}
/* "NAME N" */
static inline void tell(const char* name, uint64_t n) {
  say(name);
  say_char(' ');
  say_number(n);
  say_char('\n');
}

/* --- interrupts --------------------------------------------------------------------------------------------------- */

struct Gate {
  uint16_t low, selector, flags, middle;
  uint32_t high, zero;
};
static struct Gate gates[256] __attribute__((aligned(16)));

static inline void set_gate(unsigned vector, void (*handler)(void*)) {
  const uint64_t at = (uint64_t)handler;
  gates[vector] = (struct Gate){(uint16_t)at, 0x10, 0x8e00, (uint16_t)(at >> 16), (uint32_t)(at >> 32), 0};
}

__attribute__((interrupt)) static void unexpected(void* frame) {
  (void)frame;
  say("unexpected interrupt\n");
  for (;;)
    __asm__ volatile("cli; hlt");
}

static inline void load_gates(void) {
  const struct __attribute__((packed)) {
    uint16_t limit;
    uint64_t base;
  } pointer = {sizeof gates - 1, (uint64_t)gates};
  for (unsigned vector = 0; vector < 256; vector++)
    set_gate(vector, unexpected);
  __asm__ volatile("lidt %0" ::"m"(pointer));
}

/* Sleeps until an interrupt's handler has changed `*count` from `old`. */
static inline void wait_change(volatile unsigned* count, unsigned old) {
  while (*count == old)
    __asm__ volatile("sti; hlt; cli" ::: "memory");
}

/* The two 8259As (Intel data sheet): IRQ n is vector 0x20 + n, all masked but those in `open`. */
static inline void set_pics(uint16_t open) {
  const uint16_t mask = (uint16_t)~open;
  out8(0x20, 0x11);
  out8(0xa0, 0x11);
  out8(0x21, 0x20);
  out8(0xa1, 0x28);
  out8(0x21, 0x04);
  out8(0xa1, 0x02);
  out8(0x21, 0x01);
  out8(0xa1, 0x01);
  out8(0x21, (uint8_t)mask);
  out8(0xa1, (uint8_t)(mask >> 8));
}
static inline void end_pic_interrupt(void) {
  out8(0xa0, 0x20);
  out8(0x20, 0x20);
}

/* The local APIC (Intel SDM volume 3, chapter 11). */
static const Registers apic = (Registers)0xfee00000;
static inline void enable_apic(void) {
  put32(apic + 0xf0, 0x1ff);
}
static inline uint32_t apic_number(void) {
  return get32(apic + 0x20) >> 24;
}
static inline void end_apic_interrupt(void) {
  put32(apic + 0xb0, 0);
}
