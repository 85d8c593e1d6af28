/* SPDX-License-Identifier: Apache-2.0
   The shape of a bzImage (Linux Documentation/arch/x86/boot.rst): a boot sector, one setup sector that nobody runs, and
   a "kernel" with the 32-bit entry at 0 and the 64-bit one at 0x200, both of which say the command line and power off. */

        .org    0x1f1
        .byte   1                       # setup_sects
        .word   0
        .long   (kernel_end - kernel + 15) / 16
        .word   0, 0, 0
        .word   0xaa55
        .byte   0xeb, header_end - 0x202
        .ascii  "HdrS"
        .word   0x020f                  # protocol 2.15
        .long   0
        .word   0, 0
        .byte   0
        .byte   1                       # LOADED_HIGH
        .word   0
        .long   0x100000                # code32_start
        .long   0, 0, 0                 # ramdisk_image, ramdisk_size, bootsect_kludge
        .word   0, 0
        .long   0                       # cmd_line_ptr
        .long   0x7fffffff              # initrd_addr_max
        .long   0x200000                # kernel_alignment
        .byte   1, 21                   # relocatable
        .word   1                       # XLF_KERNEL_64
        .long   255                     # cmdline_size
        .long   0
        .quad   0
        .long   0, 0
        .quad   0
        .quad   0x1000000               # pref_address
        .long   0x4000                  # init_size
        .long   0, 0
header_end:
        .org    0x400

kernel:
        .code32                         # ESI: zero page; where this lies is code32_start in it
        mov     0x214(%esi), %ebp
        lea     stack_end - kernel(%ebp), %esp
        lea     hello32 - kernel(%ebp), %ebx
        call    say32
        mov     0x228(%esi), %ebx
        call    say32
        lea     done - kernel(%ebp), %ebx
        call    say32
        jmp     off32
say32:  mov     (%ebx), %al
        test    %al, %al
        jz      1f
        mov     $0x3f8, %edx
        out     %al, %dx
        inc     %ebx
        jmp     say32
1:      ret
off32:  mov     $0x604, %edx
        mov     $0x2000, %eax
        out     %ax, %dx
1:      hlt
        jmp     1b

        .org    0x600
        .code64                         # RSI: zero page
        lea     stack_end(%rip), %rsp
        lea     hello64(%rip), %rbx
        call    say64
        mov     0x228(%rsi), %ebx
        call    say64
        lea     done(%rip), %rbx
        call    say64
        mov     $0x604, %edx
        mov     $0x2000, %eax
        out     %ax, %dx
1:      hlt
        jmp     1b
say64:  mov     (%rbx), %al
        test    %al, %al
        jz      1f
        mov     $0x3f8, %edx
        out     %al, %dx
        inc     %rbx
        jmp     say64
1:      ret

hello32: .asciz "32-bit entry: "
hello64: .asciz "64-bit entry: "
done:   .asciz "\ndone\n"
kernel_end:
        .set    stack_end, kernel + 0x4000 # init_size
