/* gRPC's server reflection: the files of our services, as the Makefile has
 * protoc-c describe them. They are read anew for each question: they are few
 * and small, and so nothing has to be kept. */
#include <stdio.h>
#include <string.h>

#include "api/reflection/descriptor.pb-c.h"
#include "api/reflection/reflection.pb-c.h"
#include "server/methods/handlers.h"

#define MAX_FILES 16
#define MAX_SERVICES 32
#define MAX_SHOWN 150 /* bytes of a name */
#define NOT_FOUND 5   /* gRPC's codes */
#define INVALID_ARGUMENT 3

/* The assembler takes the file in, so that no other tool has to. */
__asm__(".pushsection .rodata\n"
        "srv_services: .incbin \"build/gen/services.binpb\"\n"
        "srv_services_end: .balign 8\n"
        "srv_services_len: .quad srv_services_end - srv_services\n"
        ".popsection\n");
extern const uint8_t srv_services[];
extern const uint64_t srv_services_len;

typedef Grpc__Reflection__V1__ServerReflectionRequest question;
typedef Grpc__Reflection__V1__ServerReflectionResponse answer;
#define ASKS(kind)                                                             \
    GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##kind
#define ANSWERS(kind)                                                          \
    GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##kind

/* The files, as bytes and as names. */
struct files {
    Tscaf__Descriptor__V1__Set *set; /* owned */
    size_t n;
    Tscaf__Descriptor__V1__File *at[MAX_FILES]; /* owned */
};

static void files_fini(struct files *f)
{
    for (size_t i = 0; i < f->n; i++)
        tscaf__descriptor__v1__file__free_unpacked(f->at[i], NULL);
    tscaf__descriptor__v1__set__free_unpacked(f->set, NULL);
}

/* False: no memory. */
static bool files_init(struct files *f)
{
    *f = (struct files){0};
    f->set = tscaf__descriptor__v1__set__unpack(NULL, srv_services_len,
                                                srv_services);
    while (f->set && f->n < f->set->n_file && f->n < MAX_FILES) {
        const ProtobufCBinaryData *bytes = &f->set->file[f->n];

        f->at[f->n] =
            tscaf__descriptor__v1__file__unpack(NULL, bytes->len, bytes->data);
        if (!f->at[f->n])
            break;
        f->n++;
    }
    return f->set && f->n == f->set->n_file;
}

/* ---- Who has a name ---- */

/* What follows name in a path of names: "" at its end, NULL: another path. */
static const char *after(const char *path, const char *name)
{
    size_t len = strlen(name);

    if (strncmp(path, name, len) != 0 || (path[len] && path[len] != '.'))
        return NULL;
    return path[len] ? path + len + 1 : path + len;
}

static bool is_one(Tscaf__Descriptor__V1__Name *const *names, size_t n,
                   const char *path)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i]->name, path) == 0)
            return true;
    return false;
}

/* messages: count only them, not fields and enums. */
static bool in_types(Tscaf__Descriptor__V1__Type *const *types, size_t n,
                     const char *path, bool messages)
{
    for (size_t i = 0; i < n; i++) {
        const Tscaf__Descriptor__V1__Type *t = types[i];
        const char *rest = after(path, t->name);

        if (rest &&
            (!*rest ||
             in_types(t->nested_type, t->n_nested_type, rest, messages) ||
             (!messages && (is_one(t->field, t->n_field, rest) ||
                            is_one(t->enum_type, t->n_enum_type, rest)))))
            return true;
    }
    return false;
}

static bool declares(const Tscaf__Descriptor__V1__File *f, const char *symbol,
                     bool messages)
{
    const char *path = after(symbol, f->package);

    if (!path || !*path)
        return false;
    if (in_types(f->message_type, f->n_message_type, path, messages))
        return true;
    if (messages)
        return false;
    if (is_one(f->enum_type, f->n_enum_type, path))
        return true;
    for (size_t i = 0; i < f->n_service; i++) {
        const char *rest = after(path, f->service[i]->name);

        if (rest && (!*rest || is_one(f->service[i]->method,
                                      f->service[i]->n_method, rest)))
            return true;
    }
    return false;
}

/* ---- Answers ---- */

static answer answer_to(const struct srv_call *c)
{
    answer a = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;

    a.original_request = (question *)(uintptr_t)c->request;
    a.valid_host = a.original_request->host;
    return a;
}

static void refuse(struct srv_call *c, int code, const char *what,
                   const char *name)
{
    answer a = answer_to(c);
    Grpc__Reflection__V1__ErrorResponse error =
        GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    size_t len = strnlen(name, MAX_SHOWN);
    char text[MAX_SHOWN + 64];

    while (len && (name[len] & 0xc0) == 0x80)
        len--; /* characters stay whole */
    snprintf(text, sizeof(text), *name ? "%s \"%.*s\"" : "%s", what, (int)len,
             name);
    error.error_code = code;
    error.error_message = text;
    a.message_response_case = ANSWERS(ERROR_RESPONSE);
    a.error_response = &error;
    c->reply(c, &a.base);
}

static void reply_file(struct srv_call *c, const struct files *f,
                       const char *name, bool by_symbol)
{
    answer a = answer_to(c);
    Grpc__Reflection__V1__FileDescriptorResponse found =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;

    for (size_t i = 0; i < f->n; i++) {
        if (by_symbol ? !declares(f->at[i], name, false)
                      : strcmp(f->at[i]->name, name) != 0)
            continue;
        found.n_file_descriptor_proto = 1;
        found.file_descriptor_proto = &f->set->file[i];
        a.message_response_case = ANSWERS(FILE_DESCRIPTOR_RESPONSE);
        a.file_descriptor_response = &found;
        c->reply(c, &a.base);
        return;
    }
    refuse(c, NOT_FOUND, by_symbol ? "there is no symbol" : "there is no file",
           name);
}

static void reply_services(struct srv_call *c, const struct files *f)
{
    answer a = answer_to(c);
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse of[MAX_SERVICES], *at[MAX_SERVICES];
    char names[MAX_SERVICES][96];

    list.service = at;
    for (size_t i = 0; i < f->n; i++)
        for (size_t k = 0;
             k < f->at[i]->n_service && list.n_service < MAX_SERVICES; k++) {
            size_t n = list.n_service++;

            snprintf(names[n], sizeof(names[n]), "%s.%s", f->at[i]->package,
                     f->at[i]->service[k]->name);
            at[n] = &of[n];
            grpc__reflection__v1__service_response__init(at[n]);
            of[n].name = names[n];
        }
    a.message_response_case = ANSWERS(LIST_SERVICES_RESPONSE);
    a.list_services_response = &list;
    c->reply(c, &a.base);
}

/* No message has extensions. */
static void reply_numbers(struct srv_call *c, const struct files *f, char *name)
{
    answer a = answer_to(c);
    Grpc__Reflection__V1__ExtensionNumberResponse none =
        GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;

    for (size_t i = 0; i < f->n; i++) {
        if (!declares(f->at[i], name, true))
            continue;
        none.base_type_name = name;
        a.message_response_case = ANSWERS(ALL_EXTENSION_NUMBERS_RESPONSE);
        a.all_extension_numbers_response = &none;
        c->reply(c, &a.base);
        return;
    }
    refuse(c, NOT_FOUND, "there is no message", name);
}

void srv_handle_reflection(struct srv_call *c)
{
    const question *q = (const void *)c->request;
    struct api_error err;
    struct files f;

    if (!files_init(&f)) {
        files_fini(&f);
        api_fail(&err, API_UNAVAILABLE, "no memory for the descriptors");
        c->fail(c, &err);
        return;
    }
    switch (q->message_request_case) {
    case ASKS(FILE_BY_FILENAME):
        reply_file(c, &f, q->file_by_filename, false);
        break;
    case ASKS(FILE_CONTAINING_SYMBOL):
        reply_file(c, &f, q->file_containing_symbol, true);
        break;
    case ASKS(ALL_EXTENSION_NUMBERS_OF_TYPE):
        reply_numbers(c, &f, q->all_extension_numbers_of_type);
        break;
    case ASKS(LIST_SERVICES):
        reply_services(c, &f);
        break;
    case ASKS(FILE_CONTAINING_EXTENSION):
        refuse(c, NOT_FOUND, "there is no extension of",
               q->file_containing_extension->containing_type);
        break;
    default:
        refuse(c, INVALID_ARGUMENT, "nothing that is known was asked", "");
    }
    files_fini(&f);
}
