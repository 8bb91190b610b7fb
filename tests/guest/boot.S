/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From QEMU's multiboot loader (32 bits, no paging) to tiny_main() in long
 * mode with the first 4 GiB mapped one to one.
 */
#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 3 /* page-aligned, wants the memory's size */

#define CR0_PAGING    (1 << 31)
#define CR4_PAE       (1 << 5)
#define MSR_EFER      0xc0000080
#define EFER_LME      (1 << 8)
#define PAGE_TABLE    3        /* present, writable */
#define PAGE_HUGE     0x83     /* the same, 2 MiB */

    .section .multiboot, "a"
    .balign 4
    .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

    .text
    .code32
    .globl _start
_start:
    cli
    mov $stack_top, %esp
    mov %ebx, %esi /* the multiboot information, for tiny_main() */

    movl $page_directory_pointers + PAGE_TABLE, page_map
    mov $page_directories + PAGE_TABLE, %eax
    xor %ecx, %ecx
1:  mov %eax, page_directory_pointers(, %ecx, 8)
    add $4096, %eax
    inc %ecx
    cmp $4, %ecx
    jne 1b

    mov $PAGE_HUGE, %eax
    xor %ecx, %ecx
2:  mov %eax, page_directories(, %ecx, 8)
    add $2 << 20, %eax
    inc %ecx
    cmp $4 * 512, %ecx
    jne 2b

    mov $page_map, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $CR4_PAE, %eax
    mov %eax, %cr4
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov %cr0, %eax
    or $CR0_PAGING, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_mode

    .code64
long_mode:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %esi, %edi
    call tiny_main
3:  hlt
    jmp 3b

    .globl timer_interrupt
timer_interrupt:
    push %rax
    mov $0x20, %al
    out %al, $0x20
    pop %rax
    iretq

    .section .rodata
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt

    .bss
    .balign 4096
page_map:
    .skip 4096
page_directory_pointers:
    .skip 4096
page_directories:
    .skip 4 * 4096
stack:
    .skip 16384
stack_top:

    .section .note.GNU-stack, "", @progbits
