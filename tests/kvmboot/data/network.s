# A boot sector that sends the frame "ping" by the first virtio network card and writes the text of the next frame that
# comes to the serial port. Memory: from 0x20000 the receive queue, from 0x21000 the transmit queue (descriptors, then
# the available ring at 0x400 and the used ring at 0x800), a buffer for each at 0x22000 and 0x23000.
.intel_syntax noprefix
.set common, 0                  # registers of the card, by EBP: its common configuration and its doorbells
.set doorbell, 0x3000
.globl _start
_start:
.code16
        cli
        xor     eax, eax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00
        mov     ax, 0xb102      # PCI BIOS: find the card, BX = where
        mov     cx, 0x1041
        mov     dx, 0x1af4
        xor     si, si
        int     0x1a
        mov     ax, 0xb10c      # memory and bus master on
        mov     di, 4
        mov     cx, 6
        int     0x1a
        mov     ax, 0xb10a      # the registers are behind BAR 4 (QEMU) or BAR 0 (the built-in engine)
        mov     di, 0x20
        int     0x1a
        and     ecx, -16
        jnz     1f
        mov     ax, 0xb10a
        mov     di, 0x10
        int     0x1a
        and     ecx, -16
1:      mov     ebp, ecx
        cli
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        .byte   0xea            # far jump into the 32-bit segment
        .word   protected, 8
.code32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     edi, 0x20000
        mov     ecx, 0x1000
        xor     eax, eax
        rep stosd
        mov     byte ptr [ebp + common + 0x14], 0       # reset; then acknowledge, driver
        mov     byte ptr [ebp + common + 0x14], 3
        mov     dword ptr [ebp + common + 8], 1         # VERSION_1 and nothing else
        mov     dword ptr [ebp + common + 12], 1
        mov     byte ptr [ebp + common + 0x14], 11      # features are chosen
        xor     edx, edx
        mov     esi, 0x20000
2:      mov     [ebp + common + 0x16], dx               # queue DX, of 8
        mov     word ptr [ebp + common + 0x18], 8
        mov     [ebp + common + 0x20], esi
        lea     eax, [esi + 0x400]
        mov     [ebp + common + 0x28], eax
        add     eax, 0x400
        mov     [ebp + common + 0x30], eax
        mov     word ptr [ebp + common + 0x1c], 1
        add     esi, 0x1000
        inc     edx
        cmp     edx, 2
        jb      2b
        mov     byte ptr [ebp + common + 0x14], 15      # driver is ready
        mov     edi, 0x20000
        mov     dword ptr [edi], 0x22000                # a buffer of 2 KiB to receive
        mov     word ptr [edi + 8], 0x800
        mov     byte ptr [edi + 12], 2
        mov     byte ptr [edi + 0x402], 1
        mov     word ptr [ebp + doorbell], 0
        mov     dword ptr [edi + 0x301a], 0x676e6970    # "ping" behind the headers, 12 and 14 bytes
        mov     dword ptr [edi + 0x1000], 0x23000
        mov     byte ptr [edi + 0x1008], 12 + 60
        mov     byte ptr [edi + 0x1402], 1
        mov     word ptr [ebp + doorbell + 4], 1
3:      pause
        cmp     word ptr [edi + 0x802], 0               # until a receive buffer is used
        je      3b
        lea     esi, [edi + 0x201a]
        mov     dx, 0x3f8
4:      lodsb
        test    al, al
        jz      5f
        out     dx, al
        jmp     4b
5:      hlt
        jmp     5b
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:   .word   23
        .long   gdt
        .org    510
        .word   0xaa55
