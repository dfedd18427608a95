/* A PKCS#11 module that passes everything on to SoftHSM, counts the calls, and does what a file tells it to:
 *
 *     C_Decrypt hang          does not return while the file says so
 *     C_Decrypt crash         ends the process as a wild pointer would
 *     C_Decrypt 0x30          answers this code
 *     C_Decrypt flip          gives back another plaintext
 *     C_FindObjectsInit logout   loses the login first, as a reset token does
 *     C_EncryptInit nonce     puts a nonce of its own into the place of the caller's
 *     once C_Decrypt 0xB3     the same for one call
 *     twice C_DecryptInit 0x60  the same for two
 *
 * What it has of other HSMs' ways is in pkcs11_manners.h.
 * Built with -DREAL="path of SoftHSM" and -DPLACE="directory of the files `fault`, `manners` and `calls`".
 * Without a PKCS#11 header: the function list is a version and 68 pointers, in the standard's order. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);
static struct list { word version; function at[68]; } *real, ours;

#include "pkcs11_manners.h"

static int fault(const char *name, char *what) {
    char line[128] = "", found[64];
    FILE *file = fopen(PLACE "/fault", "r");
    if (!file) return 0;
    char *text = fgets(line, sizeof line, file);
    fclose(file);
    if (!text) return 0;
    int twice = sscanf(line, "twice %63s %15s", found, what) == 2;
    int once = !twice && sscanf(line, "once %63s %15s", found, what) == 2;
    if (!once && !twice && sscanf(line, "%63s %15s", found, what) != 2) return 0;
    if (strcmp(found, name) != 0) return 0;
    if (once) unlink(PLACE "/fault");
    if (twice && (file = fopen(PLACE "/fault", "w"))) {
        fprintf(file, "once %s %s\n", found, what);
        fclose(file);
    }
    return 1;
}

static word call(int index, const char *name, word a, word b, word c, word d, word e, word f, word g, word h) {
    char what[16] = "";
    int log = open(PLACE "/calls", O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (log >= 0) { dprintf(log, "%s\n", name); close(log); }
    /* A call without a buffer only asks for a length, and the operation would stay open after it. */
    int ends = strcmp(name, "C_Decrypt") == 0;
    if (!(ends && !d) && fault(name, what)) {
        if (!strcmp(what, "crash")) { signal(SIGSEGV, SIG_DFL); raise(SIGSEGV); }
        if (!strcmp(what, "hang")) while (fault(name, what)) usleep(10000);
        if (!strncmp(what, "0x", 2)) {
            if (ends) real->at[index](a, b, c, d, e, f, g, h);
            return strtoul(what, NULL, 16);
        }
        if (!strcmp(what, "logout")) real->at[19](a, 0, 0, 0, 0, 0, 0, 0);
        if (!strcmp(what, "nonce")) ((unsigned char **)((word *)b)[1])[0][0] ^= 1;
        word answer = real->at[index](a, b, c, d, e, f, g, h);
        if (!strcmp(what, "flip")) ((unsigned char *)d)[0] ^= 1;
        return answer;
    }
    word answer;
    if (mannered(index, a, b, c, d, e, &answer)) return answer;
    return real->at[index](a, b, c, d, e, f, g, h);
}

#define WATCH(index, name) \
    static word name(word a, word b, word c, word d, word e, word f, word g, word h) { \
        return call(index, #name, a, b, c, d, e, f, g, h); \
    }
WATCH(0, C_Initialize)
WATCH(1, C_Finalize)
WATCH(4, C_GetSlotList)
WATCH(6, C_GetTokenInfo)
WATCH(7, C_GetMechanismList)
WATCH(8, C_GetMechanismInfo)
WATCH(12, C_OpenSession)
WATCH(18, C_Login)
WATCH(26, C_FindObjectsInit)
WATCH(29, C_EncryptInit)
WATCH(30, C_Encrypt)
WATCH(33, C_DecryptInit)
WATCH(34, C_Decrypt)
WATCH(60, C_WrapKey)
WATCH(61, C_UnwrapKey)
WATCH(64, C_GenerateRandom)

__attribute__((visibility("default"))) word C_GetFunctionList(struct list **out) {
    if (!real) {
        void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
        word (*get)(struct list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != 0) return 5;
        ours = *real;
        ours.at[0] = C_Initialize;
        ours.at[1] = C_Finalize;
        ours.at[4] = C_GetSlotList;
        ours.at[6] = C_GetTokenInfo;
        ours.at[7] = C_GetMechanismList;
        ours.at[8] = C_GetMechanismInfo;
        ours.at[12] = C_OpenSession;
        ours.at[18] = C_Login;
        ours.at[26] = C_FindObjectsInit;
        ours.at[29] = C_EncryptInit;
        ours.at[30] = C_Encrypt;
        ours.at[33] = C_DecryptInit;
        ours.at[34] = C_Decrypt;
        ours.at[60] = C_WrapKey;
        ours.at[61] = C_UnwrapKey;
        ours.at[64] = C_GenerateRandom;
    }
    *out = &ours;
    return 0;
}
