/* How real HSMs differ from SoftHSM, for the module in between. The file `manners` names those that it has:
 *
 *     rw-only       opens no session that only reads (AWS CloudHSM, SDK 5)
 *     zeroed-iv     AES-GCM takes no nonce but an empty place, and puts its own there (AWS CloudHSM)
 *     appended-iv   AES-GCM draws a nonce of 16 bytes, whatever it is given, and appends it (Thales Luna in FIPS mode)
 *     luna-kwp      AES key wrap with padding as an encryption, under Thales Luna's number
 *     protected     the PIN is entered at the token
 */
enum {
    GET_TOKEN_INFO = 6, GET_MECHANISM_INFO = 8, OPEN_SESSION = 12, LOGIN = 18, CREATE_OBJECT = 20, DESTROY_OBJECT = 22,
    GET_ATTRIBUTES = 24, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT_INIT = 33, DECRYPT = 34, WRAP_KEY = 60, UNWRAP_KEY = 61,
    GENERATE_RANDOM = 64
};
#define AES_GCM 0x1087UL
#define AES_KEY_WRAP_PAD 0x210AUL
#define LUNA_AES_KWP 0x80000171UL
#define FUNCTION_FAILED 0x6
#define MECHANISM_PARAM_INVALID 0x71

struct mechanism { word kind; void *parameter; word length; };
struct gcm { unsigned char *iv; word iv_length, iv_bits; unsigned char *aad; word aad_length, tag_bits; };
struct attribute { word kind; void *value; word length; };

static unsigned char own_iv[16];
static int appends;
static word wrapping_key, unwrapping_key;

static int has(const char *manner) {
    char text[128] = "";
    FILE *file = fopen(PLACE "/manners", "r");
    if (!file) return 0;
    char *line = fgets(text, sizeof text, file);
    fclose(file);
    return line && strstr(line, manner);
}

#define AS(pointer) ((word)(pointer))

/* Of a key that lives as long as the session and can be taken out of it. */
static word class = 4, generic = 0x10;
static unsigned char yes = 1, no = 0;
#define TEMPLATE \
    {0, &class, sizeof class}, {0x100, &generic, sizeof generic}, {1, &no, 1}, {2, &yes, 1}, {0x103, &no, 1}, {0x162, &yes, 1}

static word wrap(word session, word data, word length, word out, word out_length) {
    struct mechanism pad = {AES_KEY_WRAP_PAD, NULL, 0};
    struct attribute template[] = {TEMPLATE, {0x11, (void *)data, length}};
    word object, result;
    if (!out) { *(word *)out_length = length + 8; return 0; }
    result = real->at[CREATE_OBJECT](session, AS(template), 7, AS(&object), 0, 0, 0, 0);
    if (result) return result;
    result = real->at[WRAP_KEY](session, AS(&pad), wrapping_key, object, out, out_length, 0, 0);
    real->at[DESTROY_OBJECT](session, object, 0, 0, 0, 0, 0, 0);
    wrapping_key = 0;
    return result;
}

static word unwrap(word session, word data, word length, word out, word out_length) {
    struct mechanism pad = {AES_KEY_WRAP_PAD, NULL, 0};
    struct attribute template[] = {TEMPLATE};
    word object, result;
    if (!out) { *(word *)out_length = length - 8; return 0; }
    result = real->at[UNWRAP_KEY](session, AS(&pad), unwrapping_key, data, length, AS(template), 6, AS(&object));
    unwrapping_key = 0;
    if (result) return result;
    struct attribute value = {0x11, (void *)out, *(word *)out_length};
    result = real->at[GET_ATTRIBUTES](session, object, AS(&value), 1, 0, 0, 0, 0);
    *(word *)out_length = value.length;
    real->at[DESTROY_OBJECT](session, object, 0, 0, 0, 0, 0, 0);
    return result;
}

static word encrypt_init(word session, struct mechanism *asked, word key, int *done) {
    struct gcm *gcm = asked->parameter;
    *done = 1;
    if (asked->kind == LUNA_AES_KWP && has("luna-kwp")) { wrapping_key = key; return 0; }
    if (asked->kind == AES_GCM && has("zeroed-iv")) {
        for (word at = 0; at < gcm->iv_length; at++) if (gcm->iv[at]) return MECHANISM_PARAM_INVALID;
        real->at[GENERATE_RANDOM](session, AS(gcm->iv), gcm->iv_length, 0, 0, 0, 0, 0);
    }
    if (asked->kind == AES_GCM && has("appended-iv")) {
        struct gcm with_own = {own_iv, sizeof own_iv, sizeof own_iv * 8, gcm->aad, gcm->aad_length, gcm->tag_bits};
        struct mechanism other = {AES_GCM, &with_own, sizeof with_own};
        real->at[GENERATE_RANDOM](session, AS(own_iv), sizeof own_iv, 0, 0, 0, 0, 0);
        appends = 1;
        return real->at[ENCRYPT_INIT](session, AS(&other), key, 0, 0, 0, 0, 0);
    }
    *done = 0;
    return 0;
}

static word encrypt_and_append(word session, word data, word length, word out, word out_length) {
    word result = real->at[ENCRYPT](session, data, length, out, out_length, 0, 0, 0);
    if (out) {
        appends = 0;
        if (!result) memcpy((unsigned char *)out + *(word *)out_length, own_iv, sizeof own_iv);
    }
    *(word *)out_length += sizeof own_iv;
    return result;
}

static word enter_pin(word session, word user) {
    char pin[64] = "";
    FILE *file = fopen(PLACE "/pin", "r");
    if (!file || !fgets(pin, sizeof pin, file)) return FUNCTION_FAILED;
    fclose(file);
    pin[strcspn(pin, "\n")] = 0;
    return real->at[LOGIN](session, user, AS(pin), strlen(pin), 0, 0, 0, 0);
}

/* Whether the call was answered here, and how. */
static int mannered(int index, word a, word b, word c, word d, word e, word *answer) {
    int done = 1;
    switch (index) {
    case OPEN_SESSION:
        done = has("rw-only") && !(b & 2);
        *answer = FUNCTION_FAILED;
        return done;
    case GET_TOKEN_INFO:
        if (!has("protected")) return 0;
        *answer = real->at[index](a, b, 0, 0, 0, 0, 0, 0);
        /* After four texts of 96 bytes together: the flags. */
        *(word *)(b + 96) |= 0x100;
        return 1;
    case LOGIN:
        if (c || !has("protected")) return 0;
        *answer = enter_pin(a, b);
        return 1;
    case GET_MECHANISM_INFO:
        if (b != LUNA_AES_KWP || !has("luna-kwp")) return 0;
        memset((void *)c, 0, 3 * sizeof(word));
        *answer = 0;
        return 1;
    case ENCRYPT_INIT:
        *answer = encrypt_init(a, (struct mechanism *)b, c, &done);
        return done;
    case ENCRYPT:
        if (wrapping_key) *answer = wrap(a, b, c, d, e);
        else if (appends) *answer = encrypt_and_append(a, b, c, d, e);
        else return 0;
        return 1;
    case DECRYPT_INIT:
        if (((struct mechanism *)b)->kind != LUNA_AES_KWP || !has("luna-kwp")) return 0;
        unwrapping_key = c;
        *answer = 0;
        return 1;
    case DECRYPT:
        if (!unwrapping_key) return 0;
        *answer = unwrap(a, b, c, d, e);
        return 1;
    }
    return 0;
}
