/* SPDX-License-Identifier: Apache-2.0
   Firmware of 64 KiB that ends at 4 GiB and drives the flash chip of 64 KiB below it, as UEFI's variable driver does: tells flash
   from RAM, programs, erases, and prints each byte that it read. */
        .set    base, 0xffff0000
        .set    flash, 0xfffe0000
        .text
        .code16
start16:
        cli
        lgdtl   %cs:gdt_pointer
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $8, $start32 + base

        .code32
start32:
        mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x8000, %esp
        mov     $flash, %edi
        mov     $name + base, %esi
        call    say
        call    say_byte                # as it was
        movb    $0x50, (%edi)
        movb    $0x70, (%edi)
        call    say_byte                # its cleared status
        movb    $0x40, 0x123(%edi)
        movb    $0x5a, 0x123(%edi)
        call    say_byte                # programmed
        movb    $0xff, (%edi)
        add     $0x123, %edi
        call    say_byte
        movb    $0x20, (%edi)
        movb    $0xd0, (%edi)
        call    say_byte                # erased
        movb    $0xff, (%edi)
        call    say_byte
        add     $0x1000, %edi
        movb    $0x40, (%edi)
        movb    $0xa7, (%edi)
        movb    $0xff, (%edi)
        call    say_byte
        mov     $done + base, %esi
        call    say
        mov     $0x604, %dx             # power off, and QEMU's isa-debug-exit
        mov     $0x2000, %ax
        out     %ax, %dx
        mov     $0xf4, %dx
        out     %al, %dx
1:      hlt
        jmp     1b

say:                                    # the text at ESI
        lodsb
        test    %al, %al
        jz      1f
        mov     $0x3f8, %dx
        out     %al, %dx
        jmp     say
1:      ret

say_byte:                               # the byte at EDI
        mov     (%edi), %bl
        mov     $0x3f8, %dx
        mov     $' ', %al
        out     %al, %dx
        mov     %bl, %al
        shr     $4, %al
        call    say_digit
        mov     %bl, %al
        and     $15, %al
say_digit:
        add     $'0', %al
        cmp     $'9', %al
        jbe     1f
        add     $'a' - '9' - 1, %al
1:      out     %al, %dx
        ret

name:   .asciz  "flash"
done:   .asciz  "\ndone\n"
        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt + base

        .org    0xfff0                  # where the processor starts
        .code16
        jmp     start16
        .org    0x10000
