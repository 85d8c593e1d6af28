/* SPDX-License-Identifier: Apache-2.0
   Where a payload in C is entered: by PVH in 32-bit protected mode (EBX: hvm_start_info; long mode is made here), or by
   Linux's 64-bit boot protocol (RSI: zero page; long mode is the loader's). Then payload_main(told, by_pvh). */
        .section .note.pvh, "a", @note
        .long 4, 8, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .quad start32

        .text
        .code32
start32:
        cld
        mov     $page_directories, %edi # 4 GiB one to one, in pages of 2 MiB
        mov     $0x83, %eax
        mov     $2048, %ecx
1:      mov     %eax, (%edi)
        add     $0x200000, %eax
        add     $8, %edi
        dec     %ecx
        jnz     1b
        movl    $page_directories + 0x0003, pointers
        movl    $page_directories + 0x1003, pointers + 8
        movl    $page_directories + 0x2003, pointers + 16
        movl    $page_directories + 0x3003, pointers + 24
        movl    $pointers + 3, top
        mov     $top, %eax
        mov     %eax, %cr3
        mov     $0x20, %eax             # PAE
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx       # EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        lgdt    gdt_pointer
        mov     %cr0, %eax
        or      $0x80000001, %eax
        mov     %eax, %cr0
        ljmp    $0x10, $long_mode

        .code64
long_mode:
        mov     $0x18, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     %ebx, %edi
        mov     $1, %esi
        jmp     2f
        .globl  start64
start64:
        mov     %rsi, %rdi
        xor     %esi, %esi
2:      mov     $stack_end, %esp
        call    payload_main
        mov     $0x604, %edx            # PM1a control of the board's ACPI: S5
        mov     $0x2000, %eax
        out     %ax, %dx
3:      cli
        hlt
        jmp     3b

        .data
        .balign 8
gdt:    .quad   0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        .bss
        .balign 4096
page_directories: .skip 4 * 4096
pointers: .skip 4096
top:    .skip   4096
        .skip   16384
stack_end:
