/* SPDX-License-Identifier: Apache-2.0
   32-bit protected mode without paging, as PVH enters it: the serial port, port I/O of every width, and the clock read
   twice. */
        .section .note.pvh, "a", @note
        .long 4, 8, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .quad start32

        .text
        .code32
        .globl  start64
start64:                                # nothing enters it here
start32:
        mov     $stack_end, %esp
        mov     $hello, %esi
        call    say
        mov     %cr0, %eax              # PE without PG
        and     $0x80000001, %eax
        call    say_hex
        mov     $newline, %esi
        call    say

        mov     $scratch, %esi          # the UART's scratch register, 8 bits
        call    say
        mov     $0x3ff, %edx
        mov     $0x5a, %al
        out     %al, %dx
        xor     %eax, %eax
        in      %dx, %al
        call    say_hex
        mov     $bridge, %esi           # the host bridge's vendor: 32 bits out, 16 in
        call    say
        mov     $0xcf8, %edx
        mov     $0x80000000, %eax
        out     %eax, %dx
        mov     $0xcfc, %edx
        xor     %eax, %eax
        in      %dx, %ax
        call    say_hex
        mov     $newline, %esi
        call    say
        call    say_clock
        call    say_clock
        mov     $done, %esi
        call    say
        mov     $0x604, %edx
        mov     $0x2000, %eax
        out     %ax, %dx
1:      cli
        hlt
        jmp     1b

say:                                    # the text at ESI
        lodsb
        test    %al, %al
        jz      1f
        call    say_al
        jmp     say
1:      ret

say_al:
        mov     %al, %ah
        mov     $0x3fd, %edx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        mov     $0x3f8, %edx
        mov     %ah, %al
        out     %al, %dx
        ret

say_hex:                                # EAX, eight digits
        mov     %eax, %ebx
        mov     $8, %ecx
1:      rol     $4, %ebx
        mov     %bl, %al
        call    say_digit
        loop    1b
        ret

say_digit:                              # the low half of AL
        and     $15, %al
        add     $'0', %al
        cmp     $'9', %al
        jbe     say_al
        add     $'a' - '9' - 1, %al
        jmp     say_al

say_clock:                              # "rtc CCYYMMDDhhmmss"; MC146818: not while it updates itself
        mov     $clock, %esi
        call    say
        mov     $10, %al
1:      out     %al, $0x70
        in      $0x71, %al
        test    $0x80, %al
        mov     $10, %al
        jnz     1b
        mov     $registers, %esi
        mov     $7, %ecx
2:      lodsb
        out     %al, $0x70
        in      $0x71, %al
        mov     %al, %bl
        shr     $4, %al
        call    say_digit
        mov     %bl, %al
        call    say_digit
        loop    2b
        mov     $newline, %esi
        jmp     say

        .section .rodata
registers: .byte 0x32, 9, 8, 7, 4, 2, 0
hello:  .asciz "32-bit mode, cr0 "
scratch: .asciz "scratch "
bridge: .asciz " bridge "
clock:  .asciz "rtc "
done:   .asciz "done\n"
newline: .asciz "\n"

        .bss
        .balign 16
        .skip   1024
stack_end:
