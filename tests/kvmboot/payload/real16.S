/* SPDX-License-Identifier: Apache-2.0
   A boot sector, and the sector behind it. Through the BIOS: ticks of the PIT, the clock, a sector read, a sector
   written. */
        .code16
start:  ljmp    $0, $1f
1:      xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $start, %sp
        mov     %dl, disk
        mov     $hello, %si
        call    say

        mov     $0, %ah                 # INT 1Ah, AH=00h: CX:DX = ticks since midnight
        int     $0x1a
        mov     %dx, base
2:      sti
        hlt
        mov     $0, %ah
        int     $0x1a
        sub     base, %dx
        cmp     $2, %dx
        jb      2b
        mov     $ticks, %si
        call    say

        mov     $4, %ah                 # INT 1Ah, AH=04h: CX DX = CCYY MMDD
        int     $0x1a
        mov     $error, %si
        jc      3f
        push    %dx
        mov     $clock, %si
        call    say
        mov     %cx, %ax
        call    say_hex
        pop     %ax
        call    say_hex
        mov     $2, %ah                 # AH=02h: CX DH = hhmm ss
        int     $0x1a
        push    %dx
        mov     %cx, %ax
        call    say_hex
        pop     %ax
        call    say_hex2

        mov     $0x0201, %ax            # INT 13h, AH=02h: one sector, cylinder 0, head 0, sector 2
        mov     $second, %bx
        mov     $0x0002, %cx
        mov     $0, %dh
        mov     disk, %dl
        int     $0x13
        mov     $error, %si
        jc      3f
        mov     $second, %si
        call    say
        mov     $0x0301, %ax            # AH=03h: to sector 9
        mov     $second, %bx
        mov     $0x0009, %cx
        mov     $0, %dh
        mov     disk, %dl
        int     $0x13
        mov     $error, %si
        jc      3f
        mov     $done, %si
3:      call    say
        mov     $0x604, %dx
        mov     $0x2000, %ax
        out     %ax, %dx
4:      cli
        hlt
        jmp     4b

say:    lodsb                           # the text at SI
        test    %al, %al
        jz      1f
        call    say_al
        jmp     say
1:      ret

say_al: mov     $0x3f8, %dx
        out     %al, %dx
        ret

say_hex:                                # AX
        push    %ax
        call    say_hex2
        pop     %ax
        mov     %al, %ah
say_hex2:                               # AH
        mov     %ah, %bl
        shr     $4, %ah
        call    1f
        mov     %bl, %ah
        and     $15, %ah
1:      mov     %ah, %al
        add     $'0', %al
        cmp     $'9', %al
        jbe     say_al
        add     $'a' - '9' - 1, %al
        jmp     say_al

disk:   .byte   0
base:   .word   0
hello:  .asciz  "16-bit mode\n"
ticks:  .asciz  "two ticks\n"
clock:  .asciz  "rtc "
error:  .asciz  "\nBIOS error\n"
done:   .asciz  "done\n"
        .org    510
        .word   0xaa55
second: .asciz  "\nthis is the second sector\n"
        .org    1024
