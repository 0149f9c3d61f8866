/* The floor under a C-STORE: how fast bytes go from a socket to files where nothing is checked.
 *
 * Not a DICOM server. It knows the proposals of benchmarks/load.py alone: of its A-ASSOCIATE-RQ it reads
 * the AE titles, one presentation context with the ID 1 is accepted, every message has the Message ID 1
 * and is a C-STORE or a C-ECHO. Data sets go to files without File Meta Information, in one directory, by
 * a number; there is no index, no log, and no limit.
 *
 * usage: receiver PORT DIRECTORY [sync]      sync: fdatasync, rename and fsync of the directory, then answer
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { A_ASSOCIATE_RQ = 1, A_ASSOCIATE_AC = 2, P_DATA_TF = 4, A_RELEASE_RQ = 5, A_RELEASE_RP = 6 };
enum { COMMAND = 1, LAST = 2 };
enum { BUFFER = 1 << 18, VECTOR = 64 };

static int directory, sync_files;
static atomic_long stored;

/* What follows the fixed part of the A-ASSOCIATE-AC (PS3.8 9.3.3): the application context, context 1 with
 * Explicit VR Little Endian, user information with the longest PDU (128 KiB) and an implementation. */
static const char ITEMS[] =
    "\x10\0\0\x15" "1.2.840.10008.3.1.1.1"
    "\x21\0\0\x1b" "\1\0\0\0" "\x40\0\0\x13" "1.2.840.10008.1.2.1"
    "\x50\0\0\x12" "\x51\0\0\4" "\0\2\0\0" "\x52\0\0\6" "2.25.7";

/* C-STORE-RSP and C-ECHO-RSP as whole PDUs (PS3.7 E.1): Command Field, Message ID Being Responded To 1, no
 * data set, 0000H. They differ in the byte at ANSWERED. */
#define ELEMENT(number, value) "\0\0" number "\2\0\0\0" value
static const char RESPONSE[] =
    "\4\0\0\0\0\x3a" "\0\0\0\x36" "\1\3"
    "\0\0\0\0\4\0\0\0\x28\0\0\0"
    ELEMENT("\x00\x01", "\x01\x80") ELEMENT("\x20\x01", "\1\0") ELEMENT("\x00\x08", "\1\1") ELEMENT("\x00\x09", "\0\0");
enum { ANSWERED = 12 + 12 + 8, REQUESTED = 12 };

static uint32_t number(const unsigned char *at) { return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

static void fail(const char *what) { perror(what); exit(1); }

static void send_all(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size) {
        ssize_t sent = write(fd, at, size);
        if (sent <= 0) return;
        at += sent; size -= sent;
    }
}

static void accept_association(int fd, const unsigned char *request)
{
    unsigned char pdu[74 + sizeof ITEMS];
    uint32_t length = htonl(68 + sizeof ITEMS - 1);
    memcpy(pdu, request, 74);            /* protocol version and AE titles as they came */
    pdu[0] = A_ASSOCIATE_AC;
    memcpy(pdu + 2, &length, 4);
    memcpy(pdu + 74, ITEMS, sizeof ITEMS - 1);
    send_all(fd, pdu, 74 + sizeof ITEMS - 1);
}

static void store_fragments(int file, struct iovec *vector, int count)
{
    while (count) {
        ssize_t written = writev(file, vector, count);
        if (written < 0) fail("writev");
        while (count && (size_t)written >= vector->iov_len) { written -= vector->iov_len; vector++; count--; }
        if (count) { vector->iov_base = (char *)vector->iov_base + written; vector->iov_len -= written; }
    }
}

/* An object on its way: its file, and fragments that are in the buffer still. */
struct object { int file; char name[32], final[32]; struct iovec vector[VECTOR]; int count; };

static void flush(struct object *object)
{
    if (object->count) store_fragments(object->file, object->vector, object->count);
    object->count = 0;
}

static void begin(struct object *object)
{
    long n = atomic_fetch_add(&stored, 1);
    snprintf(object->final, sizeof object->final, "CT.%ld", n);
    snprintf(object->name, sizeof object->name, sync_files ? "part.%ld" : "CT.%ld", n);
    object->file = openat(directory, object->name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (object->file < 0) fail(object->name);
}

static void commit(struct object *object)
{
    flush(object);
    if (sync_files && fdatasync(object->file)) fail("fdatasync");
    close(object->file);
    if (sync_files && (renameat(directory, object->name, directory, object->final) || fsync(directory)))
        fail("rename");
    object->file = -1;
}

static void *serve(void *argument)
{
    int fd = (int)(intptr_t)argument, one = 1, echo;
    struct object object = {.file = -1};
    unsigned char *buffer = malloc(BUFFER + 16);
    size_t start = 0, end = 0;       /* what is in the buffer */
    size_t pdv = 0;                  /* what is to come of a fragment that is longer than what is there */
    int last = 0;                    /* whether it is the last one */
    char response[sizeof RESPONSE - 1];

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    memcpy(response, RESPONSE, sizeof response);
    for (;;) {
        ssize_t got = read(fd, buffer + end, BUFFER - end);
        if (got <= 0) break;
        end += got;
        for (;;) {
            size_t there = end - start;
            if (pdv || last) {                    /* a fragment of a data set */
                size_t part = pdv < there ? pdv : there;
                if (part) {
                    object.vector[object.count++] = (struct iovec){buffer + start, part};
                    if (object.count == VECTOR) flush(&object);
                }
                start += part; pdv -= part;
                if (pdv) break;
                if (last) { commit(&object); send_all(fd, response, sizeof response); last = 0; }
                continue;
            }
            unsigned char *pdu = buffer + start;
            if (there && pdu[0] == A_RELEASE_RQ) {
                unsigned char reply[10] = {A_RELEASE_RP, 0, 0, 0, 0, 4};
                send_all(fd, reply, sizeof reply);
                goto over;
            }
            if (there < 12) break;
            size_t length = number(pdu + 2);
            if (pdu[0] == P_DATA_TF && !(pdu[11] & COMMAND)) {  /* one fragment in each PDU, as load.py sends */
                if (object.file < 0) begin(&object);
                pdv = length - 6; last = pdu[11] & LAST; start += 12;
                continue;
            }
            if (there < 6 + length) break;
            if (pdu[0] == A_ASSOCIATE_RQ) accept_association(fd, pdu);
            else if (pdu[0] == P_DATA_TF) {
                /* Group length is 12 bytes, Affected SOP Class UID 8 and its value, then the Command Field. */
                unsigned char *set = pdu + REQUESTED, *field = set + 12 + 8 + set[12 + 4];
                echo = field[8] == 0x30;
                response[ANSWERED] = field[8];
                if (echo) send_all(fd, response, sizeof response);
            } else goto over;
            start += 6 + length;
        }
        flush(&object);
        memmove(buffer, buffer + start, end - start);
        end -= start; start = 0;
    }
over:
    if (object.file >= 0) close(object.file);
    free(buffer);
    close(fd);
    return NULL;
}

int main(int count, char **arguments)
{
    if (count < 3) return fprintf(stderr, "usage: receiver PORT DIRECTORY [sync]\n"), 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    int one = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    pthread_attr_t detached;

    signal(SIGPIPE, SIG_IGN);
    sync_files = count > 3;
    directory = open(arguments[2], O_RDONLY | O_DIRECTORY);
    if (directory < 0) fail(arguments[2]);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 1024)) fail("listen");
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (;;) {
        pthread_t thread;
        int fd = accept(listening, NULL, NULL);
        if (fd >= 0 && pthread_create(&thread, &detached, serve, (void *)(intptr_t)fd)) close(fd);
    }
}
